/* The tree as text, and as names; see render.c. */
#ifndef LADING_CRAWL_RENDER_H
#define LADING_CRAWL_RENDER_H
#include "core.h"

enum { TREE_FORM, NCDU_FORM };
typedef struct {
    Crawl *crawl;
    int form;
    int64_t depth;
    Level *levels; size_t count, room;
    bool begun, over;
} Renderer;
ptrdiff_t render(Renderer *renderer, char *out, size_t room);

/* SPECIAL: links, what is neither file nor directory, directories without entries. REST: everything else. */
enum { SPECIAL, REST };
typedef struct { Dir *dir; const uint8_t *at; uint32_t left; size_t length; } Step;
typedef struct {
    Crawl *crawl;
    Step *steps; size_t count, room;
    char *path; size_t path_room;
    bool begun;
} Lister;
ptrdiff_t list_entries(Lister *lister, int which, char *out, size_t room);
void end_lister(Lister *lister);

#endif
