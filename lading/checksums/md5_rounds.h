/* The 64 steps of MD5 (RFC 1321), for each way of taking one: MD5_ROUNDS is what a block goes through.
 *
 * Set where it is used: STEP(f, a, b, c, d, word, number, turn) and BESIDE(step), what is done beside them, with step from
 * 0 to 15 a block. The functions of the four rounds are those of the language; md5_tables.h has them in one instruction.
 */
#ifndef LADING_MD5_ROUNDS_H
#define LADING_MD5_ROUNDS_H

#define CHOOSE(b, c, d) (d ^ (b & (c ^ d)))
#define CHOOSE_BY_LAST(b, c, d) ((~d & c) + (d & b)) /* no bit is in both: a sum, which waits for b less long */
#define PARITY(b, c, d) (b ^ c ^ d)
#define INVERSE(b, c, d) (c ^ (b | ~d))

#define ROUND(f, round, factor, first, t0, t1, t2, t3)                         \
    _Pragma("GCC unroll 4") for (int i = 0; i < 16; i += 4) {                  \
        BESIDE(4 * round + i / 4)                                              \
        STEP(f, a, b, c, d, factor * i + first, 16 * round + i, t0);           \
        STEP(f, d, a, b, c, factor * (i + 1) + first, 16 * round + i + 1, t1); \
        STEP(f, c, d, a, b, factor * (i + 2) + first, 16 * round + i + 2, t2); \
        STEP(f, b, c, d, a, factor * (i + 3) + first, 16 * round + i + 3, t3); \
    }

#define MD5_ROUNDS                                 \
    ROUND(CHOOSE, 0, 1, 0, 7, 12, 17, 22)          \
    ROUND(CHOOSE_BY_LAST, 1, 5, 1, 5, 9, 14, 20)   \
    ROUND(PARITY, 2, 3, 5, 4, 11, 16, 23)          \
    ROUND(INVERSE, 3, 7, 0, 6, 10, 15, 21)

#endif
