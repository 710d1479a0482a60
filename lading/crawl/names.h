/* Names as code points, and patterns; see names.c. */
#ifndef LADING_CRAWL_NAMES_H
#define LADING_CRAWL_NAMES_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

uint32_t next_point(const uint8_t **at, const uint8_t *end);
bool is_utf8(const uint8_t *text, size_t length);
int compare_points(const uint8_t *a, size_t na, const uint8_t *b, size_t nb);
/* A pattern is the words that glob.py makes of one, see names.c; `end` is behind its last token. */
bool matches(const int32_t *token, const int32_t *end, const uint8_t *text, const uint8_t *text_end);

#endif
