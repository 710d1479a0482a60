/* Two MD5s of one message at once, from two states; included once per NAME by md5.c.
 *
 * Each chain waits for its own results, and the second one fits into the gaps of the first. Set before: NAME, TARGET,
 * and what is done beside them: BEGIN, BLOCK_BEGINS, BESIDE(step) with step from 0 to 15 a block, BLOCK_ENDS, END.
 */
#define TURN(x, turn) ((x) << (turn) | (x) >> (32 - (turn)))

#define STEP(f, a, b, c, d, word, number, turn)                                              \
    do {                                                                                     \
        uint32_t m = x[(word) & 15] + md5_constants[number];                                 \
        uint32_t s = f(b##0, c##0, d##0) + (a##0 + m), t = f(b##1, c##1, d##1) + (a##1 + m); \
        a##0 = b##0 + TURN(s, turn), a##1 = b##1 + TURN(t, turn);                            \
    } while (0)

TARGET static void NAME(uint32_t first[4], uint32_t second[4], uint32_t sha[8], const uint8_t *data, size_t blocks) {
    uint32_t a0 = first[0], b0 = first[1], c0 = first[2], d0 = first[3];
    uint32_t a1 = second[0], b1 = second[1], c1 = second[2], d1 = second[3];
    BEGIN
    for (; blocks; blocks--, data += BLOCK) {
        uint32_t x[16], e0 = a0, f0 = b0, g0 = c0, h0 = d0, e1 = a1, f1 = b1, g1 = c1, h1 = d1;
        memcpy(x, data, sizeof x);
        BLOCK_BEGINS
        MD5_ROUNDS
        BLOCK_ENDS
        a0 += e0, b0 += f0, c0 += g0, d0 += h0, a1 += e1, b1 += f1, c1 += g1, d1 += h1;
    }
    END
    first[0] = a0, first[1] = b0, first[2] = c0, first[3] = d0;
    second[0] = a1, second[1] = b1, second[2] = c1, second[3] = d1;
}

#undef TURN
#undef STEP
#undef NAME
#undef TARGET
#undef BEGIN
#undef BLOCK_BEGINS
#undef BESIDE
#undef BLOCK_ENDS
#undef END
