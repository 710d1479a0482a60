/* Packing: a listed directory becomes one run of bytes, children in canonical order.
 *
 * Input: a Job with the status of every entry. Output: its Dir's blob: for
 * each child a byte (type + 1, bytes of size << 2, linked << 6), then for a
 * directory the pointer to its Dir, otherwise the size in that many bytes and,
 * for a file, mtime, blocks, device and inode as far as they were asked for;
 * then the name with a NUL.
 * Invariant: names in a blob are unique and sorted; about 16 bytes an entry.
 */
#include "pack.h"
#include "names.h"
#include <stdlib.h>
#include <string.h>

enum { ARENA = 1 << 18 };

void *allocate(Crawl *crawl, Worker *worker, size_t size) {
    size = (size + 7) & ~(size_t)7;
    bool shared = !worker || size > ARENA / 4;
    if (!shared && (size_t)(worker->arena_end - worker->arena) >= size) {
        void *memory = worker->arena;
        worker->arena += size;
        return memory;
    }
    char *fresh = malloc(shared ? size : ARENA);
    if (!fresh) return NULL;
    pthread_mutex_lock(&crawl->lock);
    bool full = crawl->arena_count == crawl->arena_room;
    if (full) {
        size_t room = crawl->arena_room ? 2 * crawl->arena_room : 64;
        void **arenas = realloc(crawl->arenas, room * sizeof *arenas);
        if (arenas) crawl->arenas = arenas, crawl->arena_room = room, full = false;
    }
    if (!full) crawl->arenas[crawl->arena_count++] = fresh;
    pthread_mutex_unlock(&crawl->lock);
    if (full) { free(fresh); return NULL; }
    if (shared) return fresh;
    worker->arena = fresh + size;
    worker->arena_end = fresh + ARENA;
    return fresh;
}

Dir *make_dir(Crawl *crawl, Worker *worker, Dir *parent, const char *name, size_t length) {
    Dir *dir = allocate(crawl, worker, sizeof *dir + length + 1);
    if (!dir) return NULL;
    memset(dir, 0, sizeof *dir);
    dir->parent = parent;
    dir->depth = parent ? parent->depth + 1 : 0;
    dir->descriptor = -1;
    dir->length = (uint32_t)length;
    memcpy(dir->name, name, length);
    dir->name[length] = 0;
    return dir;
}

/* ---- sorting ---- */

typedef struct { uint64_t key; uint32_t segment, entry; } Key;
typedef struct { Segment **segments; size_t skip; bool odd; } Order;

static inline const Entry *entry_of(const Order *order, const Key *key) {
    return &order->segments[key->segment]->entries[key->entry];
}
static inline const uint8_t *name_of(const Order *order, const Key *key) {
    Segment *segment = order->segments[key->segment];
    return (const uint8_t *)segment->names + segment->entries[key->entry].name;
}

static int compare_names(const Order *order, const Key *a, const Key *b) {
    const Entry *ea = entry_of(order, a), *eb = entry_of(order, b);
    const uint8_t *na = name_of(order, a), *nb = name_of(order, b);
    if (order->odd) return compare_points(na, ea->length, nb, eb->length);
    size_t least = ea->length < eb->length ? ea->length : eb->length;
    int found = memcmp(na, nb, least);
    return found ? found : (ea->length > eb->length) - (ea->length < eb->length);
}

static inline bool before(const Order *order, const Key *a, const Key *b) {
    return a->key != b->key ? a->key < b->key : compare_names(order, a, b) < 0;
}

static void sift(const Order *order, Key *keys, size_t root, size_t count) {
    Key moving = keys[root];
    for (size_t child; (child = 2 * root + 1) < count; root = child) {
        if (child + 1 < count && before(order, &keys[child], &keys[child + 1])) child++;
        if (!before(order, &moving, &keys[child])) break;
        keys[root] = keys[child];
    }
    keys[root] = moving;
}

/* Quicksort in place, heapsort where a hostile order would make it quadratic. */
static void sort_keys(const Order *order, Key *keys, size_t count) {
    struct { Key *keys; size_t count; int depth; } todo[64];
    int top = 0, depth = 0;
    for (size_t n = count; n; n >>= 1) depth += 2;
    todo[top].keys = keys, todo[top].count = count, todo[top++].depth = depth;
    while (top) {
        Key *part = todo[--top].keys;
        size_t n = todo[top].count;
        int left = todo[top].depth;
        while (n > 16 && left-- > 0) {
            Key *a = part, *b = part + n / 2, *c = part + n - 1, pivot;
            if (before(order, b, a)) { Key t = *a; *a = *b; *b = t; }
            if (before(order, c, b)) {
                Key t = *b; *b = *c; *c = t;
                if (before(order, b, a)) { t = *a; *a = *b; *b = t; }
            }
            pivot = *b;
            Key *low = part - 1, *high = part + n;
            for (;;) {
                do low++; while (before(order, low, &pivot));
                do high--; while (before(order, &pivot, high));
                if (low >= high) break;
                Key t = *low; *low = *high; *high = t;
            }
            size_t first = (size_t)(high + 1 - part), second = n - first;
            /* The larger part waits, so that the stack stays below log2 n. */
            if (first < second) {
                todo[top].keys = part + first, todo[top].count = second, todo[top++].depth = left;
                n = first;
            } else {
                todo[top].keys = part, todo[top].count = first, todo[top++].depth = left;
                part += first, n = second;
            }
        }
        if (n > 16) {
            for (size_t i = n / 2; i-- > 0;) sift(order, part, i, n);
            for (size_t i = n; i-- > 1;) {
                Key t = part[0]; part[0] = part[i]; part[i] = t;
                sift(order, part, 0, i);
            }
            continue;
        }
        for (size_t i = 1; i < n; i++) {
            Key moving = part[i];
            size_t j = i;
            for (; j && before(order, &moving, &part[j - 1]); j--) part[j] = part[j - 1];
            part[j] = moving;
        }
    }
}

/* Give each key the eight bytes after what all names share, so that few comparisons look at names. */
static void fill_keys(Order *order, Key *keys, size_t count) {
    if (order->odd || count < 2) return;
    const uint8_t *first = name_of(order, keys);
    size_t shared = entry_of(order, keys)->length;
    for (size_t i = 1; i < count && shared; i++) {
        const uint8_t *name = name_of(order, keys + i);
        size_t n = 0;
        while (n < shared && name[n] == first[n]) n++;
        shared = n;
    }
    for (size_t i = 0; i < count; i++) {
        /* Names end in NUL, which sorts first as a shorter name does. */
        const uint8_t *name = name_of(order, keys + i) + shared;
        uint64_t key = 0;
        int n = 0;
        for (; n < 8 && name[n]; n++) key = key << 8 | name[n];
        keys[i].key = n ? key << 8 * (8 - n) : 0;
    }
}

/* ---- packing ---- */

static inline int bytes_of(uint64_t value) {
    return value ? (71 - __builtin_clzll(value)) / 8 : 0;
}

size_t item_size(const Crawl *crawl, int type, uint64_t size, bool linked, size_t length) {
    size_t n = 2 + length;
    if (type == DIRECTORY) return n + sizeof(Dir *);
    n += (size_t)bytes_of(size);
    if (type == REGULAR) n += 8u * ((size_t)crawl->mtime + (size_t)crawl->blocks) + (linked ? 16 : 0);
    return n;
}

uint8_t *put_item(const Crawl *crawl, uint8_t *at, const Item *item) {
    uint64_t size = (uint64_t)item->size;
    int width = item->type == DIRECTORY ? 0 : bytes_of(size);
    bool linked = item->type == REGULAR && item->linked;
    *at++ = (uint8_t)((item->type + 1) | width << 2 | linked << 6);
    if (item->type == DIRECTORY) {
        memcpy(at, &item->dir, sizeof item->dir);
        at += sizeof item->dir;
    } else {
        memcpy(at, &size, (size_t)width); /* little-endian machines only, checked in _walk.c */
        at += width;
    }
    if (item->type == REGULAR) {
        if (crawl->mtime) { memcpy(at, &item->mtime, 8); at += 8; }
        if (crawl->blocks) { memcpy(at, &item->blocks, 8); at += 8; }
        if (linked) { memcpy(at, &item->device, 8); memcpy(at + 8, &item->inode, 8); at += 16; }
    }
    memcpy(at, item->name, item->length);
    at += item->length;
    *at++ = 0;
    return at;
}

const uint8_t *read_item(const Crawl *crawl, const uint8_t *at, Item *item) {
    uint8_t head = *at++;
    item->type = (head & 3) - 1;
    item->size_bytes = head >> 2 & 15;
    item->linked = head >> 6;
    item->size = item->mtime = item->blocks = 0;
    item->dir = NULL;
    item->size_at = (uint8_t *)at;
    if (item->type == DIRECTORY) {
        memcpy(&item->dir, at, sizeof item->dir);
        at += sizeof item->dir;
    } else {
        uint64_t size = 0;
        memcpy(&size, at, (size_t)item->size_bytes);
        item->size = (int64_t)size;
        at += item->size_bytes;
    }
    if (item->type == REGULAR) {
        if (crawl->mtime) { memcpy(&item->mtime, at, 8); at += 8; }
        if (crawl->blocks) { memcpy(&item->blocks, at, 8); at += 8; }
        if (item->linked) { memcpy(&item->device, at, 8); memcpy(&item->inode, at + 8, 8); at += 16; }
    }
    item->name = (const char *)at;
    item->length = strlen((const char *)at);
    return at + item->length + 1;
}

static void to_item(const Crawl *crawl, const Segment *segment, uint32_t index, Item *item) {
    const Entry *entry = &segment->entries[index];
    item->type = entry->type;
    item->size = entry->size;
    item->linked = entry->flags & HAS_LINKS;
    item->name = segment->names + entry->name;
    item->length = entry->length;
    item->dir = entry->type == DIRECTORY ? (Dir *)(intptr_t)entry->size : NULL;
    item->mtime = item->blocks = 0;
    if (crawl->extra_words) {
        const int64_t *extra = segment->extra + (size_t)index * (size_t)crawl->extra_words;
        if (crawl->mtime) item->mtime = *extra++;
        if (crawl->blocks) item->blocks = *extra++;
        if (crawl->hard_links) item->device = (uint64_t)extra[0], item->inode = (uint64_t)extra[1];
    }
}

/* A directory that changes while it is read may list a name twice: drop all but the first in canonical order. */
static void drop_doubles(const Order *order, Key *keys, const size_t *start) {
    size_t at[4], left = 0;
    for (int type = 0; type < 4; type++) {
        at[type] = start[type];
        left += start[type + 1] > start[type];
    }
    if (left == 0) return;
    const Key *last = NULL;
    for (;;) {
        int least = -1;
        for (int type = 0; type < 4; type++)
            if (at[type] < start[type + 1] &&
                (least < 0 || compare_names(order, &keys[at[type]], &keys[at[least]]) < 0)) least = type;
        if (least < 0) return;
        Key *key = &keys[at[least]++];
        if (last && compare_names(order, last, key) == 0) {
            Entry *entry = (Entry *)entry_of(order, key);
            if (entry->type == DIRECTORY) atomic_store(&((Dir *)(intptr_t)entry->size)->dropped, true);
            else entry->flags |= DROPPED;
        } else last = key;
    }
}

static int pack_segments(Crawl *crawl, Worker *worker, Dir *dir, Segment *first, bool odd) {
    size_t segment_count = 0, total = 0, start[5] = {0};
    for (Segment *s = first; s; s = s->next) {
        segment_count++;
        for (uint32_t i = 0; i < s->count; i++)
            if (!(s->entries[i].flags & DROPPED)) start[s->entries[i].type + 2]++, total++;
    }
    memset(dir->counts, 0, sizeof dir->counts);
    dir->own = 0;
    dir->blob = NULL;
    dir->blob_size = 0;
    if (!total) return 0;
    Segment *few[16], **segments = segment_count <= 16 ? few : malloc(segment_count * sizeof *segments);
    Key some[128], *keys = total <= 128 ? some : malloc(total * sizeof *keys);
    int result = -1;
    if (!segments || !keys) goto done;
    for (int type = 1; type < 5; type++) start[type] += start[type - 1];
    size_t next[4] = {start[0], start[1], start[2], start[3]};
    uint32_t place = 0;
    for (Segment *s = first; s; s = s->next, place++) {
        segments[place] = s;
        for (uint32_t i = 0; i < s->count; i++) {
            if (s->entries[i].flags & DROPPED) continue;
            Key *key = &keys[next[s->entries[i].type + 1]++];
            key->key = 0, key->segment = place, key->entry = i;
        }
    }
    Order order = {segments, 0, odd};
    for (int type = 0; type < 4; type++) {
        size_t n = start[type + 1] - start[type];
        fill_keys(&order, keys + start[type], n);
        sort_keys(&order, keys + start[type], n);
    }
    drop_doubles(&order, keys, start);
    size_t size = 0;
    for (size_t i = 0; i < total; i++) {
        const Entry *entry = entry_of(&order, &keys[i]);
        if (!(entry->flags & DROPPED))
            size += item_size(crawl, entry->type, (uint64_t)entry->size, entry->flags & HAS_LINKS, entry->length);
    }
    uint8_t *at = dir->blob = allocate(crawl, worker, size);
    if (!at) goto done;
    dir->blob_size = size;
    for (size_t i = 0; i < total; i++) {
        Item item = {0};
        to_item(crawl, segments[keys[i].segment], keys[i].entry, &item);
        if (entry_of(&order, &keys[i])->flags & DROPPED) continue;
        at = put_item(crawl, at, &item);
        dir->counts[item.type + 1]++;
        if (item.type == REGULAR && dir->own != TOO_MANY && __builtin_add_overflow(dir->own, item.size, &dir->own))
            dir->own = TOO_MANY;
    }
    result = 0;
done:
    if (segments != few) free(segments);
    if (keys != some) free(keys);
    return result;
}

int pack_job(Crawl *crawl, Worker *worker, Job *job) {
    return pack_segments(crawl, worker, job->dir, job->first, job->odd);
}

/* Rebuild the blob after children turned out to be gone or refused: the first move to the front, as type -1. */
int repack(Crawl *crawl, Dir *dir) {
    size_t count = 0, names = 0;
    Item item;
    for (int type = 0; type < 4; type++) count += dir->counts[type];
    const uint8_t *at = dir->blob;
    for (size_t i = 0; i < count; i++) { at = read_item(crawl, at, &item); names += item.length + 1; }
    size_t words = (size_t)crawl->extra_words;
    Segment segment = {NULL, 0, malloc((count + 1) * sizeof(Entry)), NULL, malloc(names + 1)};
    segment.extra = words ? calloc(count + 1, words * sizeof(int64_t)) : NULL;
    int result = -1;
    if (segment.entries && segment.names && (!words || segment.extra)) {
        bool odd = false;
        size_t used = 0;
        at = dir->blob;
        for (size_t i = 0; i < count; i++) {
            at = read_item(crawl, at, &item);
            Entry entry = {item.size, (uint32_t)used, (uint16_t)item.length, (int8_t)item.type, 0};
            if (item.type == DIRECTORY) {
                entry.size = (intptr_t)item.dir;
                if (item.dir->state == GONE || atomic_load(&item.dir->dropped)) continue;
                if (item.dir->state == REFUSED) entry.type = OTHER, entry.size = 0;
            }
            if (item.linked) entry.flags |= HAS_LINKS;
            if (words) {
                int64_t *extra = segment.extra + segment.count * words;
                if (crawl->mtime) *extra++ = item.mtime;
                if (crawl->blocks) *extra++ = item.blocks;
                if (crawl->hard_links && item.linked) extra[0] = (int64_t)item.device, extra[1] = (int64_t)item.inode;
            }
            memcpy(segment.names + used, item.name, item.length + 1);
            used += item.length + 1;
            odd |= !is_utf8((const uint8_t *)item.name, item.length);
            segment.entries[segment.count++] = entry;
        }
        result = pack_segments(crawl, NULL, dir, &segment, odd);
    }
    free(segment.entries), free(segment.names), free(segment.extra);
    return result;
}

/* ---- totals ---- */

typedef struct { uint64_t device, inode; } Inode;
typedef struct { Inode *slots; size_t count, room; } InodeSet;

/* 1: it was there already, 0: added, -1: no memory. */
static int add_inode(InodeSet *set, uint64_t device, uint64_t inode) {
    if (2 * (set->count + 1) > set->room) {
        InodeSet bigger = {NULL, set->count, set->room ? 2 * set->room : 1024};
        bigger.slots = calloc(bigger.room, sizeof *bigger.slots);
        if (!bigger.slots) return -1;
        for (size_t i = 0; i < set->room; i++) {
            if (!set->slots[i].inode) continue;
            size_t at = (set->slots[i].inode * 0x9E3779B97F4A7C15u ^ set->slots[i].device) & (bigger.room - 1);
            while (bigger.slots[at].inode) at = (at + 1) & (bigger.room - 1);
            bigger.slots[at] = set->slots[i];
        }
        free(set->slots);
        *set = bigger;
    }
    size_t at = (inode * 0x9E3779B97F4A7C15u ^ device) & (set->room - 1);
    for (; set->slots[at].inode; at = (at + 1) & (set->room - 1))
        if (set->slots[at].inode == inode && set->slots[at].device == device) return 1;
    set->slots[at].device = device, set->slots[at].inode = inode;
    set->count++;
    return 0;
}

/* The first name of a file in canonical order keeps its size, the others have none. */
static int count_once(Crawl *crawl, Dir *dir, InodeSet *set) {
    const uint8_t *at = dir->blob, *end = dir->blob_size ? at + dir->blob_size : at;
    Item item;
    while (at < end) {
        at = read_item(crawl, at, &item);
        if (item.type != REGULAR || !item.linked) continue;
        int known = add_inode(set, item.device, item.inode);
        if (known < 0) return -1;
        if (!known) continue;
        memset(item.size_at, 0, (size_t)item.size_bytes);
        if (dir->own != TOO_MANY && __builtin_sub_overflow(dir->own, item.size, &dir->own)) dir->own = TOO_MANY;
    }
    return 0;
}

/* Sums from the leaves up, children that are gone or refused put right, without recursion. */
int settle(Crawl *crawl, uint64_t counts[4]) {
    size_t count = 0, room = 256;
    typedef struct { Dir *dir; const uint8_t *at; uint32_t left; bool repack; } Open;
    Open *open = malloc(room * sizeof *open);
    InodeSet set = {0};
    int result = -1;
    if (!open) return -1;
    Dir *next = crawl->root;
    while (next || count) {
        if (next) {
            if (count == room) {
                Open *more = realloc(open, 2 * room * sizeof *open);
                if (!more) goto done;
                open = more, room *= 2;
            }
            const uint8_t *at = next->blob;
            Item item;
            for (uint32_t i = 0; i < next->counts[0]; i++) at = read_item(crawl, at, &item);
            next->total = 0;
            next->entries = 1;
            open[count++] = (Open){next, at, next->counts[1], false};
            next = NULL;
        }
        Open *top = &open[count - 1];
        if (top->left) {
            Item item;
            top->at = read_item(crawl, top->at, &item);
            top->left--;
            if (item.dir->state == PRESENT && !atomic_load(&item.dir->dropped)) next = item.dir;
            else top->repack = true;
            continue;
        }
        Dir *dir = top->dir;
        if (top->repack && repack(crawl, dir)) goto done;
        if (crawl->count_once && count_once(crawl, dir, &set)) goto done;
        if (dir->own == TOO_MANY || __builtin_add_overflow(dir->total, dir->own, &dir->total)) {
            result = TOO_LARGE;
            goto done;
        }
        dir->entries += (uint64_t)dir->counts[0] + dir->counts[2] + dir->counts[3];
        for (int type = 0; type < 4; type++) counts[type] += dir->counts[type];
        crawl->unchanged += dir->unchanged;
        count--;
        if (!count) break; /* the root */
        if (dir->vanished && dir->entries == 1) {
            dir->state = GONE;
            open[count - 1].repack = true;
        } else {
            Dir *above = open[count - 1].dir;
            if (__builtin_add_overflow(above->total, dir->total, &above->total)) {
                result = TOO_LARGE;
                goto done;
            }
            open[count - 1].dir->entries += dir->entries;
        }
    }
    result = 0;
done:
    free(open), free(set.slots);
    return result;
}
