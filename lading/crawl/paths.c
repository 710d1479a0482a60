/* Where an entry is: paths below the root, faults by path, patterns that are for paths.
 *
 * Input: a directory, a name in it. Output: its path, malloc'ed; a fault in the crawl's list; whether it is excluded.
 * Invariant: a fault that finds no memory ends the walk, none is lost.
 */
#include "paths.h"
#include "names.h"
#include <stdlib.h>
#include <string.h>

char *path_of(const Dir *dir, const char *name, size_t *length) {
    size_t n = name ? strlen(name) : 0;
    for (const Dir *d = dir; d->parent; d = d->parent) {
        n += d->length + 1u;
        if (d->graft) break;
    }
    char *path = malloc(n + 2);
    if (!path) return NULL;
    char *at = path + n + 1;
    *at = 0;
    if (name) at -= strlen(name), memcpy(at, name, strlen(name));
    for (const Dir *d = dir; d->parent; d = d->parent) {
        if (*at) *--at = '/';
        at -= d->length;
        memcpy(at, d->name, d->length);
        if (d->graft) break;
    }
    size_t found = strlen(at);
    memmove(path, at, found + 1);
    if (length) *length = found;
    return path;
}

void give_up(Crawl *crawl) {
    atomic_store(&crawl->no_memory, true);
    atomic_store(&crawl->stopping, true);
}

void add_fault(Crawl *crawl, const Dir *dir, const char *name, int error) {
    char *path = path_of(dir, name, NULL);
    pthread_mutex_lock(&crawl->lock);
    if (path && crawl->fault_count == crawl->fault_room) {
        size_t room = crawl->fault_room ? 2 * crawl->fault_room : 64;
        Fault *faults = realloc(crawl->faults, room * sizeof *faults);
        if (faults) crawl->faults = faults, crawl->fault_room = room;
        else { free(path); path = NULL; }
    }
    if (path) crawl->faults[crawl->fault_count++] = (Fault){path, error};
    else give_up(crawl);
    pthread_mutex_unlock(&crawl->lock);
}

bool is_excluded(Crawl *crawl, const Dir *parent, const char *name, size_t length) {
    char *path = NULL;
    size_t path_length = 0;
    bool found = false;
    for (const int32_t *at = crawl->globs, *end = at + crawl->glob_words; at < end && !found; at += at[0] + 2) {
        const char *text = name;
        size_t size = length;
        if (at[1]) {
            if (!path) path = path_of(parent, name, &path_length);
            if (!path) { give_up(crawl); break; }
            text = path, size = path_length;
        }
        found = matches(at + 2, at + 2 + at[0], (const uint8_t *)text, (const uint8_t *)text + size);
    }
    free(path);
    return found;
}
