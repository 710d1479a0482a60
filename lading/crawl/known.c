/* An earlier crawl: its tree as directories with their blobs, and whether one of them is still the same.
 *
 * Input: the columns of a size tree, inode and times of each directory. Output:
 * the same of the tree that a walk leaves.
 * Invariant: a directory counts as unchanged only with the same inode on the
 * root's device, and the same mtime and ctime. One that holds anything but
 * files, links and directories never does: what could not be opened or looked
 * at may be readable now, and nothing of its directory would tell.
 */
#include "known.h"
#include "../core/times.h"
#include "names.h"
#include "pack.h"
#include "paths.h"
#include <stdlib.h>
#include <string.h>

/* ---- loading ---- */

typedef struct { size_t node, place; } Outer;

static bool is_name(const KnownTree *tree, size_t node) {
    int64_t from = tree->offsets[node], to = tree->offsets[node + 1];
    if (from < 0 || to < from || (uint64_t)to > tree->name_bytes || to - from > UINT16_MAX || (node && from == to)) return false;
    const char *name = tree->names + from;
    size_t length = (size_t)(to - from);
    return !memchr(name, 0, length) && (!node || !memchr(name, '/', length));
}

static bool is_node(const KnownTree *tree, size_t node, int64_t end) {
    int8_t type = tree->types[node];
    if (type < OTHER || type > SYMLINK || tree->sizes[node] < 0 || !is_name(tree, node)) return false;
    if (tree->ends[node] <= (int64_t)node || tree->ends[node] > end) return false;
    return type == DIRECTORY || tree->ends[node] == (int64_t)node + 1;
}

/* Make the directories, each with its node in `total` and the place after its subtree in `entries`. */
static int make_known(Crawl *crawl, const KnownTree *tree) {
    size_t place = 0, depth = 0, room = 64;
    int result = -1;
    Outer *outer = malloc(room * sizeof *outer);
    if (!outer) return -1;
    for (size_t node = 0; node < tree->count; node++) {
        while (depth && tree->ends[outer[depth - 1].node] <= (int64_t)node)
            crawl->known[outer[--depth].place]->entries = place;
        int64_t end = depth ? tree->ends[outer[depth - 1].node] : (int64_t)tree->count;
        if (!is_node(tree, node, end) || (node && !depth)) { result = BAD_TREE; goto done; }
        if (tree->types[node] != DIRECTORY) continue;
        size_t from = (size_t)tree->offsets[node], length = (size_t)tree->offsets[node + 1] - from;
        Dir *dir = !node && crawl->queue_count ? crawl->root : make_dir(crawl, &crawl->worker[0], NULL, tree->names + from, length);
        if (!dir) goto done;
        dir->total = (int64_t)node;
        crawl->known[place] = dir;
        if (depth == room) {
            Outer *more = realloc(outer, 2 * room * sizeof *outer);
            if (!more) goto done;
            outer = more, room *= 2;
        }
        outer[depth++] = (Outer){node, place++};
    }
    while (depth) crawl->known[outer[--depth].place]->entries = place;
    result = 0;
done:
    free(outer);
    return result;
}

static Item known_item(const Crawl *crawl, const KnownTree *tree, size_t node, size_t place) {
    size_t from = (size_t)tree->offsets[node];
    Item item = {.type = tree->types[node], .name = tree->names + from, .length = (size_t)tree->offsets[node + 1] - from};
    if (item.type == DIRECTORY) item.dir = crawl->known[place];
    else if (item.type == REGULAR) item.size = tree->sizes[node];
    if (item.type == REGULAR && tree->mtimes) item.mtime = tree->mtimes[node];
    return item;
}

/* Give a directory its children; the places of those that are directories follow its own. */
static int fill_known(Crawl *crawl, const KnownTree *tree, size_t place) {
    Dir *dir = crawl->known[place];
    size_t node = (size_t)dir->total, end = (size_t)tree->ends[node], below = place + 1;
    for (size_t child = node + 1; child < end; child = (size_t)tree->ends[child]) {
        Item item = known_item(crawl, tree, child, below);
        dir->blob_size += item_size(crawl, item.type, (uint64_t)item.size, false, item.length);
        dir->counts[item.type + 1]++;
        if (__builtin_add_overflow(dir->own, item.size, &dir->own)) return BAD_TREE;
        if (item.type == DIRECTORY) below = item.dir->entries;
    }
    uint8_t *at = dir->blob = dir->blob_size ? allocate(crawl, &crawl->worker[0], dir->blob_size) : NULL;
    if (dir->blob_size && !at) return -1;
    below = place + 1;
    for (size_t child = node + 1; child < end; child = (size_t)tree->ends[child]) {
        Item item = known_item(crawl, tree, child, below);
        at = put_item(crawl, at, &item);
        if (item.type == DIRECTORY) below = item.dir->entries;
    }
    int64_t stamp[3];
    memcpy(stamp, (const char *)tree->stamps + place * STAMP, sizeof stamp);
    dir->inode = (uint64_t)stamp[0], dir->mtime = stamp[1], dir->ctime = stamp[2];
    dir->stamped = (stamp[0] || stamp[1] || stamp[2]) && !dir->counts[OTHER + 1];
    dir->known = (uint32_t)place + 1;
    dir->total = 0;
    return 0;
}

int load_known(Crawl *crawl, const KnownTree *tree) {
    size_t directories = 0;
    for (size_t node = 0; node < tree->count; node++) directories += tree->types[node] == DIRECTORY;
    if (!tree->count || tree->types[0] != DIRECTORY || directories != tree->directories || directories >= UINT32_MAX) return BAD_TREE;
    crawl->known = malloc(directories * sizeof *crawl->known);
    if (!crawl->known) return -1;
    crawl->known_count = directories;
    int result = make_known(crawl, tree);
    for (size_t place = 0; !result && place < directories; place++) result = fill_known(crawl, tree, place);
    return result;
}

void copy_known(const Crawl *crawl, Dir *dir, uint64_t place) {
    if (!place || place > crawl->known_count) return;
    const Dir *known = crawl->known[place - 1];
    dir->blob = known->blob, dir->blob_size = known->blob_size, dir->own = known->own;
    memcpy(dir->counts, known->counts, sizeof dir->counts);
    dir->inode = known->inode, dir->mtime = known->mtime, dir->ctime = known->ctime;
    dir->stamped = known->stamped, dir->known = known->known;
}

/* ---- what has changed ---- */

Dir **forget_known(Crawl *crawl, Dir *dir, uint32_t *count) {
    uint32_t directories = dir->counts[DIRECTORY + 1], others = dir->counts[OTHER + 1];
    Dir **old = directories ? malloc(directories * sizeof *old) : NULL;
    const uint8_t *at = dir->blob;
    Item item;
    for (uint32_t i = 0; old && i < others + directories; i++) {
        at = read_item(crawl, at, &item);
        if (i >= others) old[i - others] = item.dir;
    }
    *count = old ? directories : 0;
    dir->blob = NULL, dir->blob_size = 0, dir->own = 0;
    memset(dir->counts, 0, sizeof dir->counts);
    dir->stamped = false;
    return old;
}

Dir *find_old(const Job *job, const char *name, size_t length) {
    uint32_t low = 0, high = job->old_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        Dir *dir = job->old[middle];
        int order = compare_points((const uint8_t *)name, length, (const uint8_t *)dir->name, dir->length);
        if (!order) return atomic_exchange(&dir->taken, true) ? NULL : dir;
        if (order < 0) high = middle;
        else low = middle + 1;
    }
    return NULL;
}

bool holds_excluded(Crawl *crawl, const Dir *dir) {
    if (!crawl->glob_words) return false;
    const uint8_t *at = dir->blob, *end = dir->blob_size ? at + dir->blob_size : at;
    Item item;
    while (at < end) {
        at = read_item(crawl, at, &item);
        if (is_excluded(crawl, dir, item.name, item.length)) return true;
    }
    return false;
}

/* ---- stamps ---- */

static bool is_time(int64_t time) {
    return time != INT64_MIN && time != INT64_MAX; /* those stand for many */
}

void put_stamp(const Crawl *crawl, Dir *dir, const struct stat *status) {
    dir->mtime = saturated_ns(status->st_mtim), dir->ctime = saturated_ns(status->st_ctim);
    dir->stamped = status->st_dev == crawl->device && is_time(dir->mtime) && is_time(dir->ctime);
}

bool is_same(const Crawl *crawl, const Dir *dir, const struct stat *status) {
    return S_ISDIR(status->st_mode) && status->st_dev == crawl->device && status->st_ino == dir->inode &&
           saturated_ns(status->st_mtim) == dir->mtime && saturated_ns(status->st_ctim) == dir->ctime;
}

static int step_below(Stamper *s, Dir *dir) {
    if (!dir->counts[DIRECTORY + 1]) return 0;
    if (s->count == s->room) {
        size_t room = s->room ? 2 * s->room : 64;
        Level *levels = realloc(s->levels, room * sizeof *levels);
        if (!levels) return -1;
        s->levels = levels, s->room = room;
    }
    const uint8_t *at = dir->blob;
    Item item;
    for (uint32_t i = 0; i < dir->counts[OTHER + 1]; i++) at = read_item(s->crawl, at, &item);
    s->levels[s->count++] = (Level){dir, at, dir->counts[DIRECTORY + 1]};
    return 0;
}

ptrdiff_t put_stamps(Stamper *s, int64_t limit, char *out, size_t room) {
    char *at = out;
    Dir *next = s->begun ? NULL : s->crawl->root;
    s->begun = true;
    while ((size_t)(out + room - at) >= STAMP) {
        while (!next) {
            if (!s->count) return at - out;
            Level *level = &s->levels[s->count - 1];
            if (!level->left) { s->count--; continue; }
            Item item;
            level->at = read_item(s->crawl, level->at, &item);
            level->left--;
            next = item.dir;
        }
        bool sure = next->stamped && !next->counts[OTHER + 1] && next->mtime < limit && next->ctime < limit;
        int64_t stamp[3] = {sure ? (int64_t)next->inode : 0, sure ? next->mtime : 0, sure ? next->ctime : 0};
        memcpy(at, stamp, sizeof stamp);
        at += sizeof stamp;
        if (step_below(s, next)) return -1;
        next = NULL;
    }
    return at - out;
}
