/* Where an entry is, what is wrong with it, and whether it is left out; see paths.c. */
#ifndef LADING_CRAWL_PATHS_H
#define LADING_CRAWL_PATHS_H
#include "core.h"

/* Path below the root of `name` in `dir` (of `dir` itself without a name), malloc'ed; "" is the root. */
char *path_of(const Dir *dir, const char *name, size_t *length);
void give_up(Crawl *crawl); /* memory is exhausted: the walk ends, and what it found is no tree */
void add_fault(Crawl *crawl, const Dir *dir, const char *name, int error);
bool is_excluded(Crawl *crawl, const Dir *parent, const char *name, size_t length);

#endif
