/* A tree from a list of its entries; see listing.c. */
#ifndef LADING_CRAWL_LISTING_H
#define LADING_CRAWL_LISTING_H
#include "core.h"

/* What a field holds; lading/crawl/list_forms.py has the same numbers. */
enum { SKIPPED, TYPE_LETTER, TYPE_WORD, TYPE_OCTAL, SIZE_FIELD, TIME_FIELD, TIME_NS_FIELD, PATH_FIELD, PARENT_FIELD, NAME_FIELD };
/* Records: fields with a text behind each; GPFS's blanks and its dashes; comma-separated values. */
enum { PRINTED, POLICY, COMMAS };
enum { NO_ESCAPES, BACKSLASHES, PERCENTS };
/* What is wrong with a line. */
enum { TORN = 1, FOREIGN, BAD_PATH, BAD_SIZE, BAD_TYPE, BAD_TIME, NO_DIRECTORY, TWICE, DOUBLES };

enum { MOST_FIELDS = 64, MOST_LIST_FAULTS = 20, FAULT_TEXT = 400 };

typedef struct { uint8_t role, length; const uint8_t *text; } Field;
typedef struct { uint64_t line; int code; uint32_t length; uint8_t text[FAULT_TEXT]; } ListFault;
typedef struct Known Known;

typedef struct {
    Crawl *crawl;
    int kind, end, escapes;
    bool comments, complete, relative, failed, packed;
    uint8_t *program; /* copies: of the fields, and of the root as the list has it */
    Field fields[MOST_FIELDS];
    int field_count;
    uint8_t *prefix;
    size_t prefix_length;
    Known *root, *last; /* of the line before: what is above it */
    uint8_t *last_path; size_t last_length, last_room;
    uint32_t *table; size_t table_room; /* places in the blocks, plus one */
    Known **blocks; size_t known_count, block_count, block_room;
    uint8_t *scratch; size_t scratch_room; /* a path without its escapes, or a record of commas */
    uint64_t line, fault_count;
    ListFault faults[MOST_LIST_FAULTS];
} Listing;

/* NULL without memory, or for a program that is none. */
Listing *begin_listing(Crawl *crawl, int kind, int end, int escapes, bool comments, const uint8_t *prefix, ptrdiff_t prefix_length,
                       const uint8_t *program, size_t program_length);
/* Take whole records; how many bytes they were, -1 without memory. ``last``: what is left over is torn. */
ptrdiff_t feed_listing(Listing *listing, const uint8_t *data, size_t size, bool last);
/* All is there: pack the directories. -1 without memory. */
int end_listing(Listing *listing);
void free_listing(Listing *listing);

#endif
