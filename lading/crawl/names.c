/* Names: order by code point as Python compares `str`, and patterns.
 *
 * Input: names as bytes. Output: code points, comparisons, matches.
 * Invariant: the same as Python's str of os.fsdecode: a byte that is not part
 * of well-formed UTF-8 (Unicode, table 3-7) is the code point U+DC00 + byte.
 */
#include "names.h"
#include <string.h>

uint32_t next_point(const uint8_t **at, const uint8_t *end) {
    const uint8_t *p = *at;
    uint8_t lead = *p++;
    *at = p;
    if (lead < 0x80) return lead;
    int more;
    uint8_t low = 0x80, high = 0xBF;
    uint32_t point;
    if (lead >= 0xC2 && lead <= 0xDF) more = 1, point = lead & 0x1F;
    else if (lead >= 0xE0 && lead <= 0xEF) {
        more = 2, point = lead & 0x0F;
        if (lead == 0xE0) low = 0xA0;
        if (lead == 0xED) high = 0x9F;
    } else if (lead >= 0xF0 && lead <= 0xF4) {
        more = 3, point = lead & 0x07;
        if (lead == 0xF0) low = 0x90;
        if (lead == 0xF4) high = 0x8F;
    } else return 0xDC00u + lead;
    for (int i = 0; i < more; i++) {
        if (p == end || *p < low || *p > high) return 0xDC00u + lead;
        point = point << 6 | (*p++ & 0x3F);
        low = 0x80, high = 0xBF;
    }
    *at = p;
    return point;
}

bool is_utf8(const uint8_t *text, size_t length) {
    const uint8_t *end = text + length;
    while (length >= 8) {
        uint64_t word;
        memcpy(&word, text, 8);
        if (word & 0x8080808080808080u) break;
        text += 8, length -= 8;
    }
    while (text < end) {
        if (*text < 0x80) { text++; continue; }
        uint32_t point = next_point(&text, end);
        if (point >= 0xDC80 && point <= 0xDCFF) return false;
    }
    return true;
}

int compare_points(const uint8_t *a, size_t na, const uint8_t *b, size_t nb) {
    const uint8_t *a_end = a + na, *b_end = b + nb;
    while (a < a_end && b < b_end) {
        uint32_t x = next_point(&a, a_end), y = next_point(&b, b_end);
        if (x != y) return x < y ? -1 : 1;
    }
    return (a < a_end) - (b < b_end);
}

/* A pattern is a list of words made by glob.py: its length, whether it is for
 * paths, then tokens: a code point, ANY, STAR, or SET, negated, n, n times (low, high). */
enum { ANY = -1, STAR = -2, SET = -3 };

static bool match_one(const int32_t *token, uint32_t point, const int32_t **next) {
    if (*token >= 0) { *next = token + 1; return (uint32_t)*token == point; }
    if (*token == ANY) { *next = token + 1; return true; }
    bool negated = token[1], found = false;
    for (int32_t i = 0; i < token[2]; i++)
        found |= point >= (uint32_t)token[3 + 2 * i] && point <= (uint32_t)token[4 + 2 * i];
    *next = token + 3 + 2 * token[2];
    return found != negated;
}

bool matches(const int32_t *token, const int32_t *end, const uint8_t *text, const uint8_t *text_end) {
    const int32_t *star = NULL, *next;
    const uint8_t *resume = NULL;
    for (;;) {
        if (token < end && *token == STAR) {
            star = ++token;
            resume = text;
            continue;
        }
        const uint8_t *after = text;
        if (text < text_end && token < end && match_one(token, next_point(&after, text_end), &next)) {
            token = next;
            text = after;
            continue;
        }
        if (text == text_end && token == end) return true;
        if (!star || resume == text_end) return false;
        next_point(&resume, text_end);
        token = star;
        text = resume;
    }
}
