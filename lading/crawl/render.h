/* The tree as text; see render.c. */
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

#endif
