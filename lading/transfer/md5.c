/* MD5 of sixteen streams at once.
 *
 * One stream cannot be hashed faster than its chain of additions and turns
 * allows (RFC 1321); sixteen independent ones fill the vector units. The
 * widest form that the processor has is chosen when the module is loaded.
 */
#include "digest.h"

#include <math.h>
#include <string.h>

static uint32_t constants[64];

#define CHOOSE(b, c, d) (d ^ (b & (c ^ d)))
#define CHOOSE_BY_LAST(b, c, d) ((~d & c) + (d & b)) /* no bit is in both: a sum, which waits for b less long */
#define PARITY(b, c, d) (b ^ c ^ d)
#define INVERSE(b, c, d) (c ^ (b | ~d))

/* Two chains over one message: the second one fits into the gaps of the first. */
#define TURN(x, turn) ((x) << (turn) | (x) >> (32 - (turn)))
#define STEP(f, a, b, c, d, word, number, turn)                                         \
    do {                                                                                \
        uint32_t m = x[(word) & 15] + constants[number];                                \
        uint32_t s = f(b##0, c##0, d##0) + (a##0 + m), t = f(b##1, c##1, d##1) + (a##1 + m); \
        a##0 = b##0 + TURN(s, turn), a##1 = b##1 + TURN(t, turn);                       \
    } while (0)
#define ROUND(f, round, factor, offset, t0, t1, t2, t3)                       \
    _Pragma("GCC unroll 4") for (int i = 0; i < 16; i += 4) {                 \
        STEP(f, a, b, c, d, factor * i + offset, 16 * round + i, t0);         \
        STEP(f, d, a, b, c, factor * (i + 1) + offset, 16 * round + i + 1, t1); \
        STEP(f, c, d, a, b, factor * (i + 2) + offset, 16 * round + i + 2, t2); \
        STEP(f, b, c, d, a, factor * (i + 3) + offset, 16 * round + i + 3, t3); \
    }

void md5_two(uint32_t first[4], uint32_t second[4], const uint8_t *data, size_t blocks) {
    uint32_t a0 = first[0], b0 = first[1], c0 = first[2], d0 = first[3];
    uint32_t a1 = second[0], b1 = second[1], c1 = second[2], d1 = second[3];
    for (; blocks; blocks--, data += BLOCK) {
        uint32_t x[16], e0 = a0, f0 = b0, g0 = c0, h0 = d0, e1 = a1, f1 = b1, g1 = c1, h1 = d1;
        memcpy(x, data, sizeof x);
        ROUND(CHOOSE, 0, 1, 0, 7, 12, 17, 22)
        ROUND(CHOOSE_BY_LAST, 1, 5, 1, 5, 9, 14, 20)
        ROUND(PARITY, 2, 3, 5, 4, 11, 16, 23)
        ROUND(INVERSE, 3, 7, 0, 6, 10, 15, 21)
        a0 += e0, b0 += f0, c0 += g0, d0 += h0, a1 += e1, b1 += f1, c1 += g1, d1 += h1;
    }
    first[0] = a0, first[1] = b0, first[2] = c0, first[3] = d0;
    second[0] = a1, second[1] = b1, second[2] = c1, second[3] = d1;
}
#undef STEP
#undef ROUND

#define WIDTH 1
#define NAME(x) one_##x
#define TARGET
#define ZIP_LOW 0
#define ZIP_HIGH 0
#include "md5_lanes.h"

#define WIDTH 4
#define NAME(x) four_##x
#define TARGET
#define ZIP_LOW 0, 4, 1, 5
#define ZIP_HIGH 2, 6, 3, 7
#include "md5_lanes.h"

#ifdef __x86_64__
#define WIDTH 8
#define NAME(x) eight_##x
#define TARGET __attribute__((target("avx2")))
#define ZIP_LOW 0, 8, 1, 9, 2, 10, 3, 11
#define ZIP_HIGH 4, 12, 5, 13, 6, 14, 7, 15
#include "md5_lanes.h"

#include <immintrin.h>
#undef CHOOSE
#undef CHOOSE_BY_LAST
#undef PARITY
#undef INVERSE
/* One instruction each: the third operand of vpternlogd is the table of the function. */
#define TABLE(b, c, d, table) ((sixteen_words)_mm512_ternarylogic_epi32((__m512i)b, (__m512i)c, (__m512i)d, table))
#define CHOOSE(b, c, d) TABLE(b, c, d, 0xCA)
#define CHOOSE_BY_LAST(b, c, d) TABLE(b, c, d, 0xE4)
#define PARITY(b, c, d) TABLE(b, c, d, 0x96)
#define INVERSE(b, c, d) TABLE(b, c, d, 0x39)
#define WIDTH 16
#define NAME(x) sixteen_##x
#define TARGET __attribute__((target("avx512f")))
#define ZIP_LOW 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define ZIP_HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#include "md5_lanes.h"
#endif

static void (*chosen)(uint32_t[4][LANES], const uint8_t *const[LANES], unsigned, size_t) = four_blocks;

void md5_setup(void) {
    for (int number = 0; number < 64; number++) constants[number] = (uint32_t)(4294967296.0 * fabs(sin(number + 1)));
#ifdef __x86_64__
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2")) chosen = eight_blocks;
    if (__builtin_cpu_supports("avx512f")) chosen = sixteen_blocks;
#endif
}

void md5_start(uint32_t state[4]) { state[0] = 0x67452301, state[1] = 0xefcdab89, state[2] = 0x98badcfe, state[3] = 0x10325476; }

void md5_one(uint32_t state[4], const uint8_t *data, size_t blocks) {
    uint32_t other[4] = {0};
    md5_two(state, other, data, blocks); /* for the last blocks of a part: nobody waits for them */
}

void md5_begin(uint32_t state[4][LANES], int lane) {
    state[0][lane] = 0x67452301, state[1][lane] = 0xefcdab89, state[2][lane] = 0x98badcfe, state[3][lane] = 0x10325476;
}

void md5_blocks(uint32_t state[4][LANES], const uint8_t *const data[LANES], unsigned used, size_t blocks) {
    /* A vector is as slow for one stream as for all of its own: up to two are quicker one after the other. */
    (__builtin_popcount(used) > 2 ? chosen : one_blocks)(state, data, used, blocks);
}
