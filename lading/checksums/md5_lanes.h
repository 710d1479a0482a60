/* MD5 of WIDTH streams at once; included once per WIDTH by md5.c.
 *
 * Set before: what turn.h asks for, and CHOOSE(a, b, c) and so on: the functions of the four rounds.
 */
#include "turn.h"

#define STEP(f, a, b, c, d, word, number, turn)                      \
    do {                                                             \
        NAME(words) sum = f(b, c, d) + (a + (x[(word) & 15] + md5_constants[number])); \
        a = b + ((sum << (turn)) | (sum >> (32 - (turn))));          \
    } while (0)

#define ROUND(f, round, factor, offset, t0, t1, t2, t3)                                         \
    _Pragma("GCC unroll 4") for (int i = 0; i < 16; i += 4) {                                   \
        STEP(f, a, b, c, d, factor * i + offset, 16 * round + i, t0);                           \
        STEP(f, d, a, b, c, factor * (i + 1) + offset, 16 * round + i + 1, t1);                 \
        STEP(f, c, d, a, b, factor * (i + 2) + offset, 16 * round + i + 2, t2);                 \
        STEP(f, b, c, d, a, factor * (i + 3) + offset, 16 * round + i + 3, t3);                 \
    }

TARGET static void NAME(blocks)(uint32_t state[4][LANES], const uint8_t *const data[LANES], unsigned used, size_t blocks) {
    for (int group = 0; group < LANES; group += WIDTH) {
        if (!(used >> group & ((1u << WIDTH) - 1))) continue;
        NAME(words) a = *(NAME(unaligned) *)&state[0][group], b = *(NAME(unaligned) *)&state[1][group];
        NAME(words) c = *(NAME(unaligned) *)&state[2][group], d = *(NAME(unaligned) *)&state[3][group];
        for (size_t block = 0; block < blocks; block++) {
            NAME(words) x[16];
            NAME(turn)(x, data + group, BLOCK * block);
            NAME(words) a0 = a, b0 = b, c0 = c, d0 = d;
            ROUND(CHOOSE, 0, 1, 0, 7, 12, 17, 22)
            ROUND(CHOOSE_BY_LAST, 1, 5, 1, 5, 9, 14, 20)
            ROUND(PARITY, 2, 3, 5, 4, 11, 16, 23)
            ROUND(INVERSE, 3, 7, 0, 6, 10, 15, 21)
            a += a0, b += b0, c += c0, d += d0;
        }
        *(NAME(unaligned) *)&state[0][group] = a, *(NAME(unaligned) *)&state[1][group] = b;
        *(NAME(unaligned) *)&state[2][group] = c, *(NAME(unaligned) *)&state[3][group] = d;
    }
}

#undef STEP
#undef ROUND
#undef NAME
#undef WIDTH
#undef TARGET
#undef ZIP_LOW
#undef ZIP_HIGH
