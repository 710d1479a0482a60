/* The tree of an earlier crawl, and what tells whether a directory has changed since; see known.c. */
#ifndef LADING_CRAWL_KNOWN_H
#define LADING_CRAWL_KNOWN_H
#include "core.h"
#include <sys/stat.h>

enum { BAD_TREE = -2, STAMP = 24 };
/* The columns of lading/tree/size_tree.py, and of each directory inode, mtime and ctime. */
typedef struct {
    size_t count;
    const int8_t *types;
    const int64_t *sizes, *ends, *offsets, *mtimes, *stamps;
    const char *names;
    size_t name_bytes, directories;
} KnownTree;

/* The root is the first of them where the walk begins here. 0, -1 without memory, BAD_TREE. */
int load_known(Crawl *crawl, const KnownTree *tree);
/* Make a borrowed directory the one at this place, plus one, of the earlier crawl. */
void copy_known(const Crawl *crawl, Dir *dir, uint64_t place);
/* The directories below one that has changed, for find_old; it holds nothing from here on. NULL: none, or no memory. */
Dir **forget_known(Crawl *crawl, Dir *dir, uint32_t *count);
Dir *find_old(const Job *job, const char *name, size_t length);
bool holds_excluded(Crawl *crawl, const Dir *dir);

void put_stamp(const Crawl *crawl, Dir *dir, const struct stat *status);
bool is_same(const Crawl *crawl, const Dir *dir, const struct stat *status);

typedef struct {
    const Crawl *crawl;
    Level *levels; size_t count, room;
    bool begun;
} Stamper;
/* Of the settled tree's directories in canonical order, STAMP bytes each; -1 without memory. */
ptrdiff_t put_stamps(Stamper *stamper, int64_t limit, char *out, size_t room);

#endif
