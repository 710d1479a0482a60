/* MD5 of WIDTH streams at once; included once per WIDTH by md5.c.
 *
 * Set before: what turn.h asks for, and what md5_rounds.h or md5_tables.h sets.
 */
#include "turn.h"

#define BESIDE(step)

#define STEP(f, a, b, c, d, word, number, turn)                                        \
    do {                                                                               \
        NAME(words) sum = f(b, c, d) + (a + (x[(word) & 15] + md5_constants[number])); \
        a = b + ((sum << (turn)) | (sum >> (32 - (turn))));                            \
    } while (0)

TARGET static void NAME(blocks)(uint32_t state[4][LANES], const uint8_t *const data[LANES], unsigned used, size_t blocks) {
    for (int group = 0; group < LANES; group += WIDTH) {
        if (!(used >> group & ((1u << WIDTH) - 1))) continue;
        NAME(words) a = *(NAME(unaligned) *)&state[0][group], b = *(NAME(unaligned) *)&state[1][group];
        NAME(words) c = *(NAME(unaligned) *)&state[2][group], d = *(NAME(unaligned) *)&state[3][group];
        for (size_t block = 0; block < blocks; block++) {
            NAME(words) x[16];
            NAME(turn)(x, data + group, BLOCK * block);
            NAME(words) a0 = a, b0 = b, c0 = c, d0 = d;
            MD5_ROUNDS
            a += a0, b += b0, c += c0, d += d0;
        }
        *(NAME(unaligned) *)&state[0][group] = a, *(NAME(unaligned) *)&state[1][group] = b;
        *(NAME(unaligned) *)&state[2][group] = c, *(NAME(unaligned) *)&state[3][group] = d;
    }
}

#undef STEP
#undef BESIDE
#undef NAME
#undef WIDTH
#undef TARGET
#undef ZIP_LOW
#undef ZIP_HIGH
