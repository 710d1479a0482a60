/* Rendering: the settled tree as text, piece by piece, and its entries by name.
 *
 * Input: a settled crawl. Output: find.json's nested arrays, or ncdu's export
 * (https://dev.yorhel.nl/ncdu/jsonfmt) without its head; or the path of each
 * entry of some kinds, which is how their attributes are asked for later.
 * Invariant: find.json is byte for byte what json.dumps of the nested lists
 * with compact separators gives; memory is one level per open directory.
 */
#include "render.h"
#include "names.h"
#include "pack.h"
#include <stdlib.h>
#include <string.h>

static const char HEX[] = "0123456789abcdef";

static inline char *put_unit(char *at, uint32_t unit) {
    *at++ = '\\', *at++ = 'u';
    for (int shift = 12; shift >= 0; shift -= 4) *at++ = HEX[unit >> shift & 15];
    return at;
}

static char *put_escaped(char *at, uint32_t point) {
    switch (point) {
        case '"': *at++ = '\\', *at++ = '"'; return at;
        case '\\': *at++ = '\\', *at++ = '\\'; return at;
        case '\n': *at++ = '\\', *at++ = 'n'; return at;
        case '\r': *at++ = '\\', *at++ = 'r'; return at;
        case '\t': *at++ = '\\', *at++ = 't'; return at;
        case '\f': *at++ = '\\', *at++ = 'f'; return at;
        case '\b': *at++ = '\\', *at++ = 'b'; return at;
        default: break;
    }
    if (point < 0x10000) return put_unit(at, point);
    point -= 0x10000;
    at = put_unit(at, 0xD800 | point >> 10);
    return put_unit(at, 0xDC00 | (point & 0x3FF));
}

/* Whether eight bytes are all printable ASCII and neither quote nor backslash: those stand for themselves. */
static inline bool are_plain(uint64_t eight) {
    const uint64_t ones = 0x0101010101010101, tops = 0x8080808080808080;
    uint64_t quote = eight ^ ones * '"', slash = eight ^ ones * '\\', end = eight ^ ones * 0x7F;
    /* The top bit of each byte that is below ' ' or equal to one of the three, or 0x80 and above; exact for "none". */
    return !(((eight - ones * ' ') | (quote - ones) | (slash - ones) | (end - ones) | eight) & tops);
}

/* A JSON string; `raw` keeps bytes above 127 as they are, as ncdu wants them. At most 6 bytes per byte and 2. */
static char *put_name(char *at, const char *name, size_t length, bool raw) {
    const uint8_t *p = (const uint8_t *)name, *end = p + length;
    *at++ = '"';
    while (p < end) {
        uint64_t eight;
        if (end - p >= 8 && (memcpy(&eight, p, 8), are_plain(eight))) {
            memcpy(at, &eight, 8);
            at += 8, p += 8;
            continue;
        }
        uint8_t byte = *p;
        if ((byte >= ' ' && byte <= '~' && byte != '"' && byte != '\\') || (raw && byte >= 0x80)) {
            *at++ = (char)byte;
            p++;
        } else at = put_escaped(at, next_point(&p, end));
    }
    *at++ = '"';
    return at;
}

static char *put_unsigned(char *at, uint64_t rest) {
    char digits[24];
    int n = 0;
    /* Most of the time of a number is the chain of divisions: two digits each. */
    for (; rest >= 100; rest /= 100) {
        unsigned pair = (unsigned)(rest % 100);
        digits[n++] = (char)('0' + pair % 10), digits[n++] = (char)('0' + pair / 10);
    }
    do digits[n++] = (char)('0' + rest % 10); while (rest /= 10);
    while (n) *at++ = digits[--n];
    return at;
}

static char *put_number(char *at, int64_t value) {
    if (value < 0) *at++ = '-';
    return put_unsigned(at, value < 0 ? 0 - (uint64_t)value : (uint64_t)value);
}

static char *put_text(char *at, const char *text) {
    size_t n = strlen(text);
    memcpy(at, text, n);
    return at + n;
}

static char *put_head(const Renderer *r, char *at, const Item *item) {
    if (r->form == TREE_FORM) {
        *at++ = '[';
        at = put_name(at, item->name, item->length, false);
        at = put_text(at, item->type == DIRECTORY ? ",0," : item->type == REGULAR ? ",1," : item->type == SYMLINK ? ",2," : ",-1,");
        at = put_number(at, item->type == DIRECTORY ? item->dir->total : item->size);
        if (item->type == REGULAR && r->crawl->mtime) *at++ = ',', at = put_number(at, item->mtime);
        return at;
    }
    at = put_text(at, item->type == DIRECTORY ? "[{\"name\":" : "{\"name\":");
    at = put_name(at, item->name, item->length, true);
    if (item->type == REGULAR) {
        at = put_text(at, ",\"asize\":");
        at = put_number(at, item->size);
        at = put_text(at, ",\"dsize\":");
        at = put_unsigned(at, (uint64_t)item->blocks * 512);
        if (item->linked && r->crawl->hard_links) {
            at = put_text(at, ",\"ino\":");
            at = put_unsigned(at, item->inode);
            at = put_text(at, ",\"hlnkc\":true");
        }
    } else if (item->type != DIRECTORY) at = put_text(at, ",\"notreg\":true");
    *at++ = '}';
    return at;
}

static int open_level(Renderer *r, Dir *dir) {
    if (r->count == r->room) {
        size_t room = r->room ? 2 * r->room : 256;
        Level *levels = realloc(r->levels, room * sizeof *levels);
        if (!levels) return -1;
        r->levels = levels, r->room = room;
    }
    uint32_t left = dir->counts[0] + dir->counts[1] + dir->counts[2] + dir->counts[3];
    if (r->depth >= 0 && (int64_t)r->count >= r->depth) left = 0;
    r->levels[r->count++] = (Level){dir, dir->blob, left};
    return 0;
}

/* Fill `out` with the next piece; its length, 0 at the end, -1 without memory or when `room` is too small. */
ptrdiff_t render(Renderer *r, char *out, size_t room) {
    char *at = out, *limit = out + room;
    if (!r->begun) {
        Item root = {.type = DIRECTORY, .name = r->crawl->root->name, .length = r->crawl->root->length, .dir = r->crawl->root};
        if (6 * root.length + 256 > room || open_level(r, r->crawl->root)) return -1;
        at = put_head(r, at, &root);
        r->begun = true;
    }
    while (r->count) {
        Level *level = &r->levels[r->count - 1];
        if (limit - at < 256) return at - out;
        if (!level->left) {
            *at++ = ']';
            r->count--;
            continue;
        }
        Item item;
        const uint8_t *next = read_item(r->crawl, level->at, &item);
        if ((size_t)(limit - at) < 6 * item.length + 256) return at == out ? -1 : at - out;
        level->at = next;
        level->left--;
        *at++ = ',';
        at = put_head(r, at, &item);
        if (item.type == DIRECTORY) {
            if (open_level(r, item.dir)) return -1;
        } else if (r->form == TREE_FORM) *at++ = ']';
    }
    if (!r->over) *at++ = '\n', r->over = true;
    return at - out;
}

/* ---- entries by name ---- */

static int step_into(Lister *l, int which, Dir *dir, size_t length) {
    if (l->count == l->room) {
        size_t room = l->room ? 2 * l->room : 256;
        Step *steps = realloc(l->steps, room * sizeof *steps);
        if (!steps) return -1;
        l->steps = steps, l->room = room;
    }
    uint32_t left = dir->counts[0] + dir->counts[1] + dir->counts[2] + dir->counts[3];
    /* Files come before links: where there are no links nobody reads past them. */
    if (which == SPECIAL && !dir->counts[3]) left -= dir->counts[2];
    l->steps[l->count++] = (Step){dir, dir->blob, left, length};
    return 0;
}

static bool is_empty(const Dir *dir) {
    return !(dir->counts[0] | dir->counts[1] | dir->counts[2] | dir->counts[3]);
}

static char kind_of(int type, const Dir *dir) {
    if (type == DIRECTORY) return is_empty(dir) ? 'e' : 'd';
    return type == REGULAR ? 'f' : type == SYMLINK ? 'l' : 'o';
}

/* Fill `out` with entries: a letter (d, e for an empty directory, f, l, o), the path below the root (the root's is
 * empty), a NUL. Its length, 0 at the end, -1 without memory or when `room` holds no path. */
ptrdiff_t list_entries(Lister *l, int which, char *out, size_t room) {
    char *at = out, *limit = out + room;
    if (!l->begun) {
        if (room < 2 || step_into(l, which, l->crawl->root, 0)) return -1;
        char kind = kind_of(DIRECTORY, l->crawl->root);
        if ((kind == 'e') == (which == SPECIAL)) *at++ = kind, *at++ = 0;
        l->begun = true;
    }
    while (l->count) {
        Step *step = &l->steps[l->count - 1];
        if (!step->left) {
            l->count--;
            continue;
        }
        Item item;
        const uint8_t *next = read_item(l->crawl, step->at, &item);
        size_t length = step->length + item.length;
        char kind = kind_of(item.type, item.dir);
        bool is_wanted = (kind == 'd' || kind == 'f') == (which == REST);
        if (is_wanted || item.type == DIRECTORY) {
            if (length + 2 > l->path_room) {
                size_t more = 2 * (length + 2);
                char *path = realloc(l->path, more);
                if (!path) return -1;
                l->path = path, l->path_room = more;
            }
            memcpy(l->path + step->length, item.name, item.length);
        }
        if (is_wanted) {
            if ((size_t)(limit - at) < length + 2) return at == out ? -1 : at - out;
            *at++ = kind;
            memcpy(at, l->path, length);
            at += length;
            *at++ = 0;
        }
        step->at = next;
        step->left--;
        if (item.type == DIRECTORY && !is_empty(item.dir)) {
            l->path[length] = '/';
            if (step_into(l, which, item.dir, length + 1)) return -1;
        }
    }
    return at - out;
}

void end_lister(Lister *l) {
    free(l->steps), free(l->path);
    *l = (Lister){0};
}
