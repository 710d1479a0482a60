/* MD5 of the whole and of a part, and SHA-256, of two to four streams at once.
 *
 * So few leave most of a vector empty: each chain waits for its own results, and what another chain does meanwhile costs
 * nothing. Eight MD5s fill one vector of 8 words, and the SHA instructions of four streams go into its gaps.
 */
#include "digest.h"

#include <string.h>

#ifdef __x86_64__
#include "md5_rounds.h"
#include "sha256_rounds.h"

#define NAME(x) avx2_##x
#define TARGET __attribute__((target("sha,sse4.1,ssse3,avx2")))
#include "few_files.h"

#define TABLE(b, c, d, table) ((avx512_words)_mm256_ternarylogic_epi32((__m256i)(b), (__m256i)(c), (__m256i)(d), table))
#include "md5_tables.h"
#define NAME(x) avx512_##x
#define TARGET __attribute__((target("sha,sse4.1,ssse3,avx2,avx512f,avx512vl")))
#include "few_files.h"

static int goes[PATHS];

void few_setup(void) {
    goes[SHA_NI_AVX512] = has_path(SHA_NI_AVX512) && has_path(AVX2);
    goes[SHA_NI] = has_path(SHA_NI) && has_path(AVX2);
}

int few_goes(Path path) { return goes[path]; }

void few_blocks(Path path, uint32_t md5[4][2 * FEW], uint32_t sha[FEW][8], const uint8_t *const data[FEW], size_t blocks) {
    (path == SHA_NI_AVX512 ? avx512_blocks : avx2_blocks)(md5, sha, data, blocks);
}
#else
void few_setup(void) {}
int few_goes(Path path) { return (void)path, 0; }
void few_blocks(Path path, uint32_t md5[4][2 * FEW], uint32_t sha[FEW][8], const uint8_t *const data[FEW], size_t blocks) {
    (void)path, (void)md5, (void)sha, (void)data, (void)blocks;
}
#endif
