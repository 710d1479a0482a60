/* Vectors of WIDTH words of 32 bits, and a square of them turned; included once per WIDTH by md5_lanes.h and sha256_lanes.h.
 *
 * Set before: WIDTH, NAME(x), TARGET, ZIP_LOW and ZIP_HIGH (lists of lanes).
 */
#if WIDTH == 1
typedef uint32_t NAME(words);
typedef uint32_t NAME(unaligned) __attribute__((aligned(1), may_alias));
#else
typedef uint32_t NAME(words) __attribute__((vector_size(4 * WIDTH)));
typedef uint32_t NAME(unaligned) __attribute__((vector_size(4 * WIDTH), aligned(1), may_alias));
#endif

#if WIDTH == 1
#define ZIP(first, second, ...) (first)
#elif defined(__clang__)
#define ZIP(first, second, ...) __builtin_shufflevector(first, second, __VA_ARGS__)
#else
#define ZIP(first, second, ...) __builtin_shuffle(first, second, (NAME(words)){__VA_ARGS__})
#endif

/* The sixteen words of a block of each lane: row = lane becomes row = word, by perfect shuffles. */
TARGET static inline __attribute__((always_inline)) void NAME(turn)(NAME(words) x[16], const uint8_t *const *data, size_t offset) {
    for (int part = 0; part < 16; part += WIDTH) {
        NAME(words) rows[WIDTH], mixed[WIDTH];
        _Pragma("GCC unroll 16") for (int lane = 0; lane < WIDTH; lane++)
            rows[lane] = *(const NAME(unaligned) *)(data[lane] + offset + 4 * part);
        _Pragma("GCC unroll 4") for (int stage = 1; stage < WIDTH; stage *= 2) {
            _Pragma("GCC unroll 8") for (int row = 0; row < WIDTH / 2; row++) {
                mixed[2 * row] = ZIP(rows[row], rows[row + WIDTH / 2], ZIP_LOW);
                mixed[2 * row + 1] = ZIP(rows[row], rows[row + WIDTH / 2], ZIP_HIGH);
            }
            _Pragma("GCC unroll 16") for (int row = 0; row < WIDTH; row++) rows[row] = mixed[row];
        }
        _Pragma("GCC unroll 16") for (int row = 0; row < WIDTH; row++) x[part + row] = rows[row];
    }
}

#undef ZIP
