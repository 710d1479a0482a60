/* SHA-256 of WIDTH streams at once, and of one stream whose message schedule is worked out WIDTH blocks at a time;
 * included once per WIDTH by sha256.c.
 *
 * Set before: what turn.h asks for, SWAP(x) (the bytes of each word in the other order), and the functions CHOOSE(e, f, g),
 * MAJORITY(a, b, c, p, q) and SUM(x, y, z), the exclusive or of three vectors. LANES_ONLY: no single stream.
 */
#include "turn.h"

#define RIGHT(x, by) ((x) >> (by) | (x) << (32 - (by)))
#define NEXT(w, i)                                                                                     \
    w[(i) & 15] += w[((i) + 9) & 15] +                                                                 \
                   SUM(RIGHT(w[((i) + 1) & 15], 7), RIGHT(w[((i) + 1) & 15], 18), w[((i) + 1) & 15] >> 3) + \
                   SUM(RIGHT(w[((i) + 14) & 15], 17), RIGHT(w[((i) + 14) & 15], 19), w[((i) + 14) & 15] >> 10)
/* p and q hold a ^ b and b ^ c by turns; some ways of MAJORITY make the one out of the other. */
#define STEP(a, b, c, d, e, f, g, h, w, i, p, q)                                          \
    do {                                                                                  \
        NAME(words) sum = (h + (w[(i) & 15] + sha256_constants[i])) + CHOOSE(e, f, g);    \
        sum += SUM(RIGHT(e, 6), RIGHT(e, 11), RIGHT(e, 25));                              \
        d += sum;                                                                         \
        h = sum + SUM(RIGHT(a, 2), RIGHT(a, 13), RIGHT(a, 22)) + MAJORITY(a, b, c, p, q); \
    } while (0)
#define EIGHT(MORE, i)                                                  \
    MORE(x, (i)); STEP(a, b, c, d, e, f, g, h, x, (i), p, q);           \
    MORE(x, (i) + 1); STEP(h, a, b, c, d, e, f, g, x, (i) + 1, q, p);   \
    MORE(x, (i) + 2); STEP(g, h, a, b, c, d, e, f, x, (i) + 2, p, q);   \
    MORE(x, (i) + 3); STEP(f, g, h, a, b, c, d, e, x, (i) + 3, q, p);   \
    MORE(x, (i) + 4); STEP(e, f, g, h, a, b, c, d, x, (i) + 4, p, q);   \
    MORE(x, (i) + 5); STEP(d, e, f, g, h, a, b, c, x, (i) + 5, q, p);   \
    MORE(x, (i) + 6); STEP(c, d, e, f, g, h, a, b, x, (i) + 6, p, q);   \
    MORE(x, (i) + 7); STEP(b, c, d, e, f, g, h, a, x, (i) + 7, q, p);
#define NOTHING(w, i)

/* Lanes go in groups of WIDTH; ``count`` of them are used, the first ones. */
TARGET static void NAME(blocks)(uint32_t state[8][LANES], const uint8_t *const data[LANES], int count, size_t blocks) {
    for (int group = 0; group < count; group += WIDTH) {
        NAME(unaligned) *s[8];
        for (int word = 0; word < 8; word++) s[word] = (NAME(unaligned) *)&state[word][group];
        NAME(words) a = *s[0], b = *s[1], c = *s[2], d = *s[3], e = *s[4], f = *s[5], g = *s[6], h = *s[7];
        for (size_t block = 0; block < blocks; block++) {
            NAME(words) x[16];
            NAME(turn)(x, data + group, BLOCK * block);
            _Pragma("GCC unroll 16") for (int i = 0; i < 16; i++) x[i] = SWAP(x[i]);
            NAME(words) a0 = a, b0 = b, c0 = c, d0 = d, e0 = e, f0 = f, g0 = g, h0 = h, p, q = b ^ c;
            (void)p, (void)q;
            EIGHT(NOTHING, 0)
            EIGHT(NOTHING, 8)
            for (int i = 16; i < 64; i += 16) {
                EIGHT(NEXT, i)
                EIGHT(NEXT, i + 8)
            }
            a += a0, b += b0, c += c0, d += d0, e += e0, f += f0, g += g0, h += h0;
        }
        *s[0] = a, *s[1] = b, *s[2] = c, *s[3] = d, *s[4] = e, *s[5] = f, *s[6] = g, *s[7] = h;
    }
}

#ifndef LANES_ONLY
#undef STEP
#define STEP(a, b, c, d, e, f, g, h, w, i, p, q)                                                       \
    do {                                                                                               \
        uint32_t sum = (h + ready[WIDTH * (i)]) + (g ^ (e & (f ^ g)));                                 \
        sum += RIGHT(e, 6) ^ RIGHT(e, 11) ^ RIGHT(e, 25);                                              \
        d += sum;                                                                                      \
        p = a ^ b, q &= p;                                                                             \
        h = sum + (RIGHT(a, 2) ^ RIGHT(a, 13) ^ RIGHT(a, 22)) + (q ^ b);                               \
    } while (0)

/* The rounds of one block, whose words with their constants are WIDTH words apart. */
TARGET static inline void NAME(scalar)(uint32_t s[8], const uint32_t *ready) {
    uint32_t a = s[0], b = s[1], c = s[2], d = s[3], e = s[4], f = s[5], g = s[6], h = s[7], p, q = b ^ c;
    for (int i = 0; i < 64; i += 8) {
        EIGHT(NOTHING, i)
    }
    s[0] += a, s[1] += b, s[2] += c, s[3] += d, s[4] += e, s[5] += f, s[6] += g, s[7] += h;
}

/* The schedule does not depend on the state: that of WIDTH blocks of one stream is worked out at once. */
TARGET static void NAME(stream)(uint32_t state[8], const uint8_t *data, size_t blocks) {
    while (blocks) {
        const uint8_t *lanes[WIDTH];
        NAME(words) x[16], ready[64];
        size_t some = blocks < WIDTH ? blocks : WIDTH;
        for (size_t lane = 0; lane < WIDTH; lane++) lanes[lane] = data + BLOCK * (lane < some ? lane : some - 1);
        NAME(turn)(x, lanes, 0);
        _Pragma("GCC unroll 16") for (int i = 0; i < 16; i++) {
            x[i] = SWAP(x[i]);
            ready[i] = x[i] + sha256_constants[i];
        }
        for (int i = 16; i < 64; i += 16) {
            _Pragma("GCC unroll 16") for (int j = 0; j < 16; j++) {
                NEXT(x, j);
                ready[i + j] = x[j] + sha256_constants[i + j];
            }
        }
        for (size_t block = 0; block < some; block++) NAME(scalar)(state, (const uint32_t *)ready + block);
        data += BLOCK * some, blocks -= some;
    }
}
#endif

#undef RIGHT
#undef NEXT
#undef STEP
#undef EIGHT
#undef NOTHING
#undef NAME
#undef WIDTH
#undef TARGET
#undef ZIP_LOW
#undef ZIP_HIGH
#undef SWAP
#undef CHOOSE
#undef MAJORITY
#undef SUM
