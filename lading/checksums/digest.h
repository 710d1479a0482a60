/* Digests of many streams in one thread; see _digest.c. */
#ifndef LADING_DIGEST_H
#define LADING_DIGEST_H

#include <stddef.h>
#include <stdint.h>

enum { LANES = 16, FEW = 4, BLOCK = 64 }; /* MD5 and SHA-256 both take blocks of 64 bytes */

/* How SHA-256 is computed: not at all; by the processor's own instructions, and many files in its vectors of 16 words; by
 * one of these alone; by vectors of 8 words; or by those of four that each processor of this kind has. */
typedef enum { NONE, SHA_NI_AVX512, SHA_NI, AVX512, AVX2, PLAIN, PATHS } Path;
int has_path(Path path); /* tells whether this processor can go this way */

/* MD5: word w of lane l is state[w][l]; all lanes go on by the same number of blocks. ``used`` has a bit for each
 * lane that counts; the data of the others must be readable all the same. */
extern uint32_t md5_constants[64];
void md5_setup(void);
void md5_begin(uint32_t state[4][LANES], int lane);
void md5_blocks(Path path, uint32_t state[4][LANES], const uint8_t *const data[LANES], unsigned used, size_t blocks);

/* MD5 of the whole and, for the lanes in ``parted``, of a part, which take the same data. */
void md5_chains(Path path, uint32_t whole[4][LANES], uint32_t part[4][LANES], const uint8_t *const data[LANES], unsigned used,
                unsigned parted, size_t blocks);

/* MD5 of one stream alone, and of two states that take the same data side by side; md5_parts takes the SHA-256 of it
 * too, by the processor's instructions. */
void md5_start(uint32_t state[4]);
void md5_one(uint32_t state[4], const uint8_t *data, size_t blocks);
void md5_parts(uint32_t part[4], uint32_t whole[4], uint32_t sha[8], const uint8_t *data, size_t blocks);

/* SHA-256 of lanes as those of MD5 are. */
void sha256_setup(void);
void sha256_begin(uint32_t state[8][LANES], int lane);
void sha256_lanes(Path path, uint32_t state[8][LANES], const uint8_t *const data[LANES], unsigned used, size_t blocks);

/* MD5 and SHA-256 of two to FEW streams side by side, each MD5 from two states: lanes 0 to 3 and 4 to 7 of ``md5``. */
void few_setup(void);
int few_goes(Path path); /* tells whether this path can */
void few_blocks(Path path, uint32_t md5[4][2 * FEW], uint32_t sha[FEW][8], const uint8_t *const data[FEW], size_t blocks);

/* CRC64NVME, begun with 0 and continued with the value before, as zlib's crc32. */
void crc64_setup(void);
uint64_t crc64(uint64_t crc, const uint8_t *data, size_t length);

#endif
