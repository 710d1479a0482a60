/* Shards: what a rank found in borrowed directories, as bytes for the first rank.
 *
 * Input: a graft. Output: who lent it and under which number, then a record
 * per directory, parents first: state, bytes, counts, the blob. In the blob's
 * pointers 0 says that the child's record follows, n that this rank lent the
 * child on under the number n - 1, plus 2^32 when its name was listed twice.
 * Invariant: both ends run the same build on the same kind of machine; a shard
 * is never stored. What comes is checked all the same before anything follows
 * it: a damaged shard is refused, and the walk has no result then.
 */
#include "shard.h"
#include "pack.h"
#include <stdlib.h>
#include <string.h>

typedef struct {
    uint64_t blob_size;
    int64_t own;
    uint32_t counts[4];
    int64_t mtime, ctime;
    uint64_t inode;
    uint8_t state, vanished, dropped, stamped, unchanged;
} Record;

static const uint64_t DROPPED_TOO = (uint64_t)1 << 32;

typedef struct { uint8_t *data; size_t size, room; } Bytes;

static uint8_t *extend(Bytes *bytes, size_t more) {
    if (bytes->size + more > bytes->room) {
        size_t room = 2 * (bytes->size + more) + 4096;
        uint8_t *data = realloc(bytes->data, room);
        if (!data) return NULL;
        bytes->data = data, bytes->room = room;
    }
    bytes->size += more;
    return bytes->data + bytes->size - more;
}

/* Where the directories begin in a blob. */
static const uint8_t *first_dir(const Crawl *crawl, const uint8_t *blob, const uint32_t *counts) {
    Item item;
    for (uint32_t i = 0; i < counts[0]; i++) blob = read_item(crawl, blob, &item);
    return blob;
}

static int put_record(const Crawl *crawl, Bytes *bytes, const Dir *dir) {
    Record record;
    memset(&record, 0, sizeof record);
    record.blob_size = dir->blob_size, record.own = dir->own;
    record.mtime = dir->mtime, record.ctime = dir->ctime, record.inode = dir->inode;
    record.state = dir->state, record.vanished = dir->vanished, record.dropped = dir->dropped;
    record.stamped = dir->stamped, record.unchanged = dir->unchanged;
    memcpy(record.counts, dir->counts, sizeof record.counts);
    uint8_t *at = extend(bytes, sizeof record + dir->blob_size);
    if (!at) return -1;
    memcpy(at, &record, sizeof record);
    uint8_t *blob = at + sizeof record;
    if (dir->blob_size) memcpy(blob, dir->blob, dir->blob_size);
    const uint8_t *next = first_dir(crawl, blob, dir->counts);
    for (uint32_t i = 0; i < dir->counts[1]; i++) {
        Item item;
        uint8_t *place = (uint8_t *)next + 1;
        next = read_item(crawl, next, &item);
        uint64_t lent = item.dir->state == AWAY ? item.dir->id + (uint64_t)1 : 0;
        if (lent && atomic_load(&item.dir->dropped)) lent |= DROPPED_TOO;
        memcpy(place, &lent, sizeof lent);
    }
    return 0;
}

uint8_t *make_shard(const Crawl *crawl, const Graft *graft, size_t *size) {
    Bytes bytes = {0};
    /* Lent on before it was opened: its number here, plus one. */
    uint32_t onward = graft->dir->state == AWAY ? graft->dir->id + 1 : 0, head[3] = {graft->rank, graft->id, onward};
    size_t count = 0, room = 64;
    Level *levels = malloc(room * sizeof *levels);
    uint8_t *at = levels ? extend(&bytes, sizeof head) : NULL;
    if (!at) goto failed;
    memcpy(at, head, sizeof head);
    const Dir *next = onward ? NULL : graft->dir;
    while (next || count) {
        if (next) {
            if (put_record(crawl, &bytes, next)) goto failed;
            if (count == room) {
                Level *more = realloc(levels, 2 * room * sizeof *levels);
                if (!more) goto failed;
                levels = more, room *= 2;
            }
            levels[count++] = (Level){NULL, first_dir(crawl, next->blob, next->counts), next->counts[1]};
            next = NULL;
        }
        Level *level = &levels[count - 1];
        if (!level->left) { count--; continue; }
        Item item;
        level->at = read_item(crawl, level->at, &item);
        level->left--;
        if (item.dir->state != AWAY) next = item.dir;
    }
    free(levels);
    *size = bytes.size;
    return bytes.data;
failed:
    free(levels), free(bytes.data);
    return NULL;
}

static int note(Away **list, size_t *count, size_t *room, Away away) {
    if (*count == *room) {
        size_t more = *room ? 2 * *room : 256;
        Away *grown = realloc(*list, more * sizeof *grown);
        if (!grown) return -1;
        *list = grown, *room = more;
    }
    (*list)[(*count)++] = away;
    return 0;
}

/* Whether a blob is one: items of the kinds that were counted, within its bytes, and the sum of the files. */
static bool is_sound(const Crawl *crawl, const Record *record, const uint8_t *at) {
    const uint8_t *end = at + record->blob_size;
    int64_t own = 0;
    for (int kind = 0; kind < 4; kind++)
        for (uint32_t left = record->counts[kind]; left; left--) {
            if (at == end || (*at & 3) != kind) return false;
            size_t width = *at >> 2 & 15, more = width;
            bool file = kind == REGULAR + 1;
            if (kind == DIRECTORY + 1) more = sizeof(Dir *);
            if (file) more += 8u * ((size_t)crawl->mtime + (size_t)crawl->blocks) + (*at >> 6 ? 16 : 0);
            if (width > 8 || more >= (size_t)(end - at)) return false;
            uint64_t size = 0;
            memcpy(&size, at + 1, file ? width : 0);
            if (size > INT64_MAX) return false;
            if (own != TOO_MANY && __builtin_add_overflow(own, (int64_t)size, &own)) own = TOO_MANY;
            at += 1 + more;
            const uint8_t *name_end = memchr(at, 0, (size_t)(end - at));
            if (!name_end || name_end == at || name_end - at > UINT16_MAX) return false;
            at = name_end + 1;
        }
    return at == end && own == record->own;
}

/* Fill a directory from its record; the blob's pointers stay numbers until its children are made. 0, -1 or -2. */
static int take_record(Crawl *crawl, Dir *dir, const uint8_t **from, const uint8_t *end) {
    const uint8_t *at = *from;
    Record record;
    if ((size_t)(end - at) < sizeof record) return -1;
    memcpy(&record, at, sizeof record);
    at += sizeof record;
    if (record.blob_size > (size_t)(end - at) || record.state >= AWAY || !is_sound(crawl, &record, at)) return -1;
    dir->own = record.own;
    memcpy(dir->counts, record.counts, sizeof dir->counts);
    dir->state = record.state, dir->vanished = record.vanished;
    dir->mtime = record.mtime, dir->ctime = record.ctime, dir->inode = record.inode;
    dir->stamped = record.stamped, dir->unchanged = record.unchanged;
    atomic_store(&dir->dropped, record.dropped);
    dir->blob_size = record.blob_size;
    if (record.blob_size) {
        dir->blob = allocate(crawl, &crawl->worker[0], record.blob_size);
        if (!dir->blob) return -2;
        memcpy(dir->blob, at, record.blob_size);
    }
    *from = at + record.blob_size;
    return 0;
}

/* 0, -1 for a damaged shard, -2 without memory. */
int add_shard(Crawl *crawl, uint32_t rank, const uint8_t *data, size_t size) {
    const uint8_t *at = data, *end = data + size;
    size_t count = 0, room = 64;
    Worker *worker = &crawl->worker[0]; /* the walk is over: its arena is free to use */
    Level *levels = malloc(room * sizeof *levels);
    int result = -2;
    if (!levels) return -2;
    uint32_t head[3];
    if (size < sizeof head) { free(levels); return -1; }
    memcpy(head, at, sizeof head);
    at += sizeof head;
    Dir *next = make_dir(crawl, worker, NULL, "", 0);
    if (!next || note(&crawl->returned, &crawl->returned_count, &crawl->returned_room, (Away){head[0], head[1], next}))
        goto done;
    if (head[2]) {
        next->state = AWAY;
        if (note(&crawl->away, &crawl->away_count, &crawl->away_room, (Away){rank, head[2] - 1, next})) goto done;
        next = NULL;
    }
    while (next || count) {
        if (next) {
            int refused = take_record(crawl, next, &at, end);
            if (refused) { result = refused; goto done; }
            if (count == room) {
                Level *more = realloc(levels, 2 * room * sizeof *levels);
                if (!more) goto done;
                levels = more, room *= 2;
            }
            levels[count++] = (Level){next, first_dir(crawl, next->blob, next->counts), next->counts[1]};
            next = NULL;
        }
        Level *level = &levels[count - 1];
        if (!level->left) { count--; continue; }
        Item item;
        uint8_t *place = (uint8_t *)level->at + 1;
        level->at = read_item(crawl, level->at, &item);
        level->left--;
        uint64_t lent = (uint64_t)(uintptr_t)item.dir;
        Dir *child = make_dir(crawl, worker, NULL, item.name, item.length);
        if (!child) goto done;
        memcpy(place, &child, sizeof child);
        if (!lent) { next = child; continue; }
        if (lent >= 2 * DROPPED_TOO || lent == DROPPED_TOO) { result = -1; goto done; }
        child->state = AWAY;
        atomic_store(&child->dropped, lent > DROPPED_TOO);
        if (note(&crawl->away, &crawl->away_count, &crawl->away_room, (Away){rank, (uint32_t)lent - 1, child}))
            goto done;
    }
    result = at == end ? 0 : -1;
done:
    free(levels);
    return result;
}

static int compare_away(const void *a, const void *b) {
    const Away *x = a, *y = b;
    if (x->rank != y->rank) return x->rank < y->rank ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

static bool in_graft(const Dir *dir) {
    for (; dir; dir = dir->parent)
        if (dir->graft) return true;
    return false;
}

/* Put what was borrowed where it was lent; -1 when something lent did not come back, -2 without memory. */
int join_shards(Crawl *crawl) {
    /* What the first rank lent out of borrowed directories is in their shards. */
    for (size_t i = 0; i < crawl->lent_count; i++)
        if (!in_graft(crawl->lent[i]) &&
            note(&crawl->away, &crawl->away_count, &crawl->away_room, (Away){0, (uint32_t)i, crawl->lent[i]})) return -2;
    if (crawl->away_count != crawl->returned_count) return -1;
    if (!crawl->away_count) return 0;
    qsort(crawl->away, crawl->away_count, sizeof(Away), compare_away);
    qsort(crawl->returned, crawl->returned_count, sizeof(Away), compare_away);
    /* What came back may itself have been lent on: until it is filled, its blob leads to where it went. */
    for (size_t i = 0; i < crawl->away_count; i++) {
        if (compare_away(&crawl->away[i], &crawl->returned[i])) return -1;
        if (i && !compare_away(&crawl->returned[i - 1], &crawl->returned[i])) return -1; /* twice the same */
        crawl->away[i].dir->blob = (uint8_t *)crawl->returned[i].dir;
    }
    for (size_t i = 0; i < crawl->away_count; i++) {
        Dir *place = crawl->away[i].dir, *found = place;
        for (size_t steps = 0; found->state == AWAY; steps++) {
            if (steps > crawl->away_count) return -1; /* lent on in a circle */
            found = (Dir *)found->blob;
        }
        place->blob = found->blob, place->blob_size = found->blob_size;
        place->own = found->own;
        memcpy(place->counts, found->counts, sizeof place->counts);
        place->state = found->state, place->vanished = found->vanished;
        place->mtime = found->mtime, place->ctime = found->ctime, place->inode = found->inode;
        place->stamped = found->stamped, place->unchanged = found->unchanged;
        if (atomic_load(&found->dropped)) atomic_store(&place->dropped, true);
    }
    return 0;
}
