/* MD5 and SHA-256 of four streams in one loop; included once per NAME by few_files.c.
 *
 * Set before: NAME(x), TARGET, and what md5_rounds.h or md5_tables.h sets.
 */
typedef uint32_t NAME(words) __attribute__((vector_size(32)));

#define STEP(f, a, b, c, d, word, number, turn)                                        \
    do {                                                                               \
        NAME(words) sum = f(b, c, d) + (a + (x[(word) & 15] + md5_constants[number])); \
        a = b + ((sum << (turn)) | (sum >> (32 - (turn))));                            \
    } while (0)

/* Four rounds of SHA-256 of each stream, number 4 * step and those that follow. */
#define BESIDE(step)                                                                                                \
    _Pragma("GCC unroll 4") for (int k = 0; k < FEW; k++) {                                                         \
        __m128i *v = w[k];                                                                                          \
        v[(step) & 3] = (step) < 4 ? read_words(data[k] + offset + 16 * (step))                                     \
                                   : extend(v[(step) & 3], v[((step) + 1) & 3], v[((step) + 2) & 3], v[((step) + 3) & 3]); \
        four_rounds(&h[k], v[(step) & 3], 4 * (step));                                                              \
    }

/* The words of a block of four streams, each twice: lanes 0 to 3 and 4 to 7. */
TARGET static inline __attribute__((always_inline)) void NAME(turn)(NAME(words) x[16], const uint8_t *const data[FEW], size_t offset) {
    _Pragma("GCC unroll 4") for (int part = 0; part < 16; part += 4) {
        __m128i r[FEW];
        _Pragma("GCC unroll 4") for (int k = 0; k < FEW; k++) r[k] = _mm_loadu_si128((const __m128i *)(data[k] + offset + 4 * part));
        __m128i low = _mm_unpacklo_epi32(r[0], r[1]), high = _mm_unpackhi_epi32(r[0], r[1]);
        __m128i low2 = _mm_unpacklo_epi32(r[2], r[3]), high2 = _mm_unpackhi_epi32(r[2], r[3]);
        x[part] = (NAME(words))_mm256_broadcastsi128_si256(_mm_unpacklo_epi64(low, low2));
        x[part + 1] = (NAME(words))_mm256_broadcastsi128_si256(_mm_unpackhi_epi64(low, low2));
        x[part + 2] = (NAME(words))_mm256_broadcastsi128_si256(_mm_unpacklo_epi64(high, high2));
        x[part + 3] = (NAME(words))_mm256_broadcastsi128_si256(_mm_unpackhi_epi64(high, high2));
    }
}

TARGET static void NAME(blocks)(uint32_t md5[4][2 * FEW], uint32_t sha[FEW][8], const uint8_t *const data[FEW], size_t blocks) {
    NAME(words) a, b, c, d;
    Halves h[FEW];
    memcpy(&a, md5[0], sizeof a), memcpy(&b, md5[1], sizeof b), memcpy(&c, md5[2], sizeof c), memcpy(&d, md5[3], sizeof d);
    for (int k = 0; k < FEW; k++) h[k] = load(sha[k]);
    for (size_t offset = 0; offset < blocks * BLOCK; offset += BLOCK) {
        NAME(words) x[16], a0 = a, b0 = b, c0 = c, d0 = d;
        Halves before[FEW];
        __m128i w[FEW][4];
        memcpy(before, h, sizeof h);
        NAME(turn)(x, data, offset);
        MD5_ROUNDS
        a += a0, b += b0, c += c0, d += d0;
        _Pragma("GCC unroll 4") for (int k = 0; k < FEW; k++) {
            h[k].abef = _mm_add_epi32(h[k].abef, before[k].abef);
            h[k].cdgh = _mm_add_epi32(h[k].cdgh, before[k].cdgh);
        }
    }
    memcpy(md5[0], &a, sizeof a), memcpy(md5[1], &b, sizeof b), memcpy(md5[2], &c, sizeof c), memcpy(md5[3], &d, sizeof d);
    for (int k = 0; k < FEW; k++) store(sha[k], h[k]);
}

#undef STEP
#undef BESIDE
#undef NAME
#undef TARGET
