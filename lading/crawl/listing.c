/* A tree from a list: what a file system's own inventory says of its entries, instead of a walk.
 *
 * Input: records in any order, in a form that is told; the root's path as the list has it. Output: the crawl's
 * directories, packed as a walk packs them; what is wrong, by line.
 * Invariant: each entry is in the buffer of its directory only, so about its name and some bytes are held of it. A
 * list with anything wrong gives no tree. Every byte of a list is somebody else's: nothing of it is trusted.
 */
#include "listing.h"
#include "pack.h"
#include "paths.h"
#include <stdlib.h>
#include <string.h>

enum { LONGEST_NAME = 4095 };

enum { KNOWN_BLOCK = 1024, ROOM_UNIT = 16 };

/* A directory that a line named, or was above one. */
struct Known {
    Dir *dir;
    uint32_t line, hash; /* the line that named it first */
    uint32_t room;       /* of the blob, in ROOM_UNITs, which is a buffer until it is packed */
    bool listed, excluded;
};

typedef struct { const uint8_t *at; size_t length; } Text;
typedef struct { Text path, parent, name, size, type, time; int type_role, time_role; } RawEntry;

static void note_fault(Listing *l, uint64_t line, int code, Text text) {
    if (l->fault_count++ >= MOST_LIST_FAULTS) return;
    ListFault *fault = &l->faults[l->fault_count - 1];
    fault->line = line, fault->code = code;
    fault->length = (uint32_t)(text.length < FAULT_TEXT ? text.length : FAULT_TEXT);
    if (fault->length) memcpy(fault->text, text.at, fault->length);
}

static uint8_t *room_for(uint8_t **buffer, size_t *room, size_t size) {
    if (size <= *room && *buffer) return *buffer;
    uint8_t *more = realloc(*buffer, 2 * size + 64);
    if (!more) return NULL;
    *buffer = more, *room = 2 * size + 64;
    return more;
}

/* ---- directories by path ---- */

static uint32_t hash_of(const uint8_t *text, size_t length) {
    uint64_t hash = 0xcbf29ce484222325u ^ length;
    for (; length >= 8; text += 8, length -= 8) {
        uint64_t word;
        memcpy(&word, text, 8);
        hash = (hash ^ word) * 0x9E3779B97F4A7C15u;
        hash ^= hash >> 29;
    }
    for (; length; text++, length--) hash = (hash ^ *text) * 0x100000001b3u;
    return (uint32_t)(hash ^ hash >> 32);
}

/* Whether a directory's path is this one. */
static bool has_path(const Dir *dir, const uint8_t *path, size_t length) {
    const uint8_t *end = path + length;
    for (; dir->parent; dir = dir->parent) {
        if ((size_t)(end - path) < dir->length) return false;
        end -= dir->length;
        if (memcmp(end, dir->name, dir->length)) return false;
        if (dir->parent->parent) {
            if (end == path || *--end != '/') return false;
        }
    }
    return end == path;
}

static Known *known_at(const Listing *l, size_t number) {
    return &l->blocks[number / KNOWN_BLOCK][number % KNOWN_BLOCK];
}

static Known *find_known(const Listing *l, const uint8_t *path, size_t length, uint32_t hash) {
    for (size_t at = hash & (l->table_room - 1); l->table[at]; at = (at + 1) & (l->table_room - 1)) {
        Known *known = known_at(l, l->table[at] - 1);
        if (known->hash == hash && has_path(known->dir, path, length)) return known;
    }
    return NULL;
}

static void put_known(const Listing *l, uint32_t *table, size_t room, size_t number) {
    size_t at = known_at(l, number)->hash & (room - 1);
    while (table[at]) at = (at + 1) & (room - 1);
    table[at] = (uint32_t)number + 1;
}

static Known *add_known(Listing *l, Dir *dir, uint32_t hash) {
    if (l->known_count >= UINT32_MAX / 2) return NULL;
    if (4 * (l->known_count + 1) > 3 * l->table_room) {
        size_t room = l->table_room ? 2 * l->table_room : 1024;
        uint32_t *table = calloc(room, sizeof *table);
        if (!table) return NULL;
        for (size_t i = 0; i < l->known_count; i++) put_known(l, table, room, i);
        free(l->table);
        l->table = table, l->table_room = room;
    }
    if (l->known_count == l->block_count * KNOWN_BLOCK) {
        size_t block = l->known_count / KNOWN_BLOCK;
        if (block == l->block_room) {
            size_t room = block ? 2 * block : 16;
            Known **blocks = realloc(l->blocks, room * sizeof *blocks);
            if (!blocks) return NULL;
            l->blocks = blocks, l->block_room = room;
        }
        l->blocks[block] = malloc(KNOWN_BLOCK * sizeof **l->blocks);
        if (!l->blocks[block]) return NULL;
        l->block_count = block + 1;
    }
    Known *known = known_at(l, l->known_count);
    *known = (Known){dir, l->line < UINT32_MAX ? (uint32_t)l->line : UINT32_MAX, hash, 0, false, false};
    put_known(l, l->table, l->table_room, l->known_count++);
    return known;
}

/* Append a child to what is known of a directory. */
static int append(Listing *l, Known *above, const Item *item) {
    Dir *dir = above->dir;
    size_t more = item_size(l->crawl, item->type, (uint64_t)item->size, false, item->length);
    if (dir->blob_size + more > (size_t)above->room * ROOM_UNIT) {
        size_t units = (dir->blob_size + dir->blob_size / 16 + more) / ROOM_UNIT + 1;
        uint8_t *blob = units < UINT32_MAX ? realloc(dir->blob, units * ROOM_UNIT) : NULL;
        if (!blob) return -1;
        dir->blob = blob, above->room = (uint32_t)units;
    }
    put_item(l->crawl, dir->blob + dir->blob_size, item);
    dir->blob_size += more;
    dir->counts[item->type + 1]++;
    return 0;
}

/* A new directory ``name`` in a known one; ``hash`` is of its path. */
static Known *make_known(Listing *l, Known *above, Text name, uint32_t hash) {
    Dir *dir = make_dir(l->crawl, &l->crawl->worker[0], above->dir, (const char *)name.at, name.length);
    Known *known = dir ? add_known(l, dir, hash) : NULL;
    if (!known) return NULL;
    known->excluded = above->excluded || is_excluded(l->crawl, above->dir, dir->name, name.length);
    Item item = {.type = DIRECTORY, .name = dir->name, .length = name.length, .dir = dir};
    if (!known->excluded && append(l, above, &item)) return NULL;
    return known;
}

/* The directory of a path that is sound; those above it are made, too. NULL without memory. */
static Known *directory_of(Listing *l, const uint8_t *path, size_t length) {
    if (!length) return l->root;
    if (l->last && length == l->last_length && !memcmp(path, l->last_path, length)) return l->last;
    uint32_t hash = hash_of(path, length);
    Known *found = find_known(l, path, length, hash);
    if (!found) {
        /* The lowest one above it that is known; then downwards. */
        size_t known = length;
        Known *above = NULL;
        while (!above) {
            while (known && path[known - 1] != '/') known--;
            if (!known) above = l->root;
            else above = find_known(l, path, known - 1, hash_of(path, known - 1)), known -= !above;
        }
        while (known < length) {
            const uint8_t *end = memchr(path + known, '/', length - known);
            size_t stop = end ? (size_t)(end - path) : length;
            above = make_known(l, above, (Text){path + known, stop - known}, hash_of(path, stop));
            if (!above) return NULL;
            known = stop + 1;
        }
        found = above;
    }
    if (!room_for(&l->last_path, &l->last_room, length)) return NULL;
    memcpy(l->last_path, path, length);
    l->last = found, l->last_length = length;
    return found;
}

/* ---- fields ---- */

static bool parse_whole(Text text, int64_t *value) {
    if (!text.length || text.length > 19) return false;
    int64_t found = 0;
    for (size_t i = 0; i < text.length; i++) {
        if (text.at[i] < '0' || text.at[i] > '9') return false;
        if (__builtin_mul_overflow(found, 10, &found) || __builtin_add_overflow(found, text.at[i] - '0', &found)) return false;
    }
    *value = found;
    return true;
}

/* Seconds with up to nanoseconds, as find's %T@ has them: the fraction counts from the second below, also before 1970. */
static bool parse_seconds(Text text, int64_t *value) {
    bool negative = text.length && *text.at == '-';
    if (negative) text.at++, text.length--;
    const uint8_t *point = text.length ? memchr(text.at, '.', text.length) : NULL;
    Text whole = {text.at, point ? (size_t)(point - text.at) : text.length};
    int64_t seconds, rest = 0;
    if (!parse_whole(whole, &seconds)) return false;
    if (point) {
        const uint8_t *at = point + 1, *end = text.at + text.length;
        if (at == end || end - at > 18) return false;
        for (int digit = 0; digit < 9 || at < end; digit++) {
            int next = at < end ? *at++ - '0' : 0;
            if (next < 0 || next > 9) return false;
            if (digit < 9) rest = 10 * rest + next;
        }
    }
    if (negative) seconds = -seconds;
    int64_t second = 1000000000;
    /* What 64 bits do not hold is the nearest that they do. */
    __int128 exact = (__int128)seconds * second + rest;
    *value = exact > INT64_MAX ? INT64_MAX : exact < INT64_MIN ? INT64_MIN : (int64_t)exact;
    return true;
}

static bool parse_ns(Text text, int64_t *value) {
    bool negative = text.length && *text.at == '-';
    if (negative) text.at++, text.length--;
    if (!parse_whole(text, value)) return false;
    if (negative) *value = -*value;
    return true;
}

static const struct { const char *word; int type; } WORDS[] = {
    {"f", REGULAR}, {"-", REGULAR}, {"file", REGULAR}, {"reg", REGULAR}, {"regular", REGULAR}, {"regular file", REGULAR},
    {"d", DIRECTORY}, {"dir", DIRECTORY}, {"directory", DIRECTORY}, {"folder", DIRECTORY},
    {"l", SYMLINK}, {"link", SYMLINK}, {"lnk", SYMLINK}, {"symlink", SYMLINK}, {"symbolic link", SYMLINK},
    {"p", OTHER}, {"fifo", OTHER}, {"pipe", OTHER}, {"s", OTHER}, {"sock", OTHER}, {"socket", OTHER},
    {"c", OTHER}, {"chr", OTHER}, {"b", OTHER}, {"blk", OTHER}, {"device", OTHER}, {"other", OTHER},
};

static bool parse_type(Text text, int role, int *type) {
    if (role == TYPE_OCTAL) {
        static const int KINDS[16] = {[1] = OTHER, [2] = OTHER, [6] = OTHER, [12] = OTHER, [4] = DIRECTORY, [8] = REGULAR, [10] = SYMLINK};
        int mode = 0;
        if (!text.length || text.length > 6) return false;
        for (size_t i = 0; i < text.length; i++) {
            if (text.at[i] < '0' || text.at[i] > '7') return false;
            mode = 8 * mode + text.at[i] - '0';
        }
        int kind = mode >> 12 & 15;
        *type = KINDS[kind];
        return kind == 4 || KINDS[kind] != DIRECTORY;
    }
    if (role == TYPE_LETTER) {
        if (!text.length) return false;
        switch (*text.at) {
        case 'f': case '-': *type = REGULAR; break;
        case 'd': *type = DIRECTORY; break;
        case 'l': *type = SYMLINK; break;
        case 'p': case 's': case 'c': case 'b': *type = OTHER; break;
        default: return false;
        }
        return text.length == 1 || text.length >= 10; /* a letter, or a mode as ls writes it */
    }
    for (size_t i = 0; i < sizeof WORDS / sizeof *WORDS; i++) {
        if (strlen(WORDS[i].word) != text.length) continue;
        size_t same = 0;
        while (same < text.length && (text.at[same] | 0x20) == (WORDS[i].word[same] | 0x20)) same++;
        if (same == text.length) { *type = WORDS[i].type; return true; }
    }
    return false;
}

static int hex(uint8_t c) {
    return c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
}

/* 0, -1 without memory, 1 when the escapes are none. */
static int take_escapes(Listing *l, Text *text) {
    uint8_t mark = l->escapes == BACKSLASHES ? '\\' : '%';
    if (!text->length || !memchr(text->at, mark, text->length)) return 0;
    uint8_t *to = room_for(&l->scratch, &l->scratch_room, text->length);
    if (!to) return -1;
    const uint8_t *at = text->at, *end = at + text->length;
    while (at < end) {
        if (*at != mark) { *to++ = *at++; continue; }
        if (l->escapes == BACKSLASHES) {
            if (end - at < 2 || (at[1] != '\\' && at[1] != 'n')) return 1;
            *to++ = at[1] == 'n' ? '\n' : '\\';
            at += 2;
        } else {
            if (end - at < 3 || hex(at[1]) < 0 || hex(at[2]) < 0) return 1;
            *to++ = (uint8_t)(16 * hex(at[1]) + hex(at[2]));
            at += 3;
        }
    }
    *text = (Text){l->scratch, (size_t)(to - l->scratch)};
    return 0;
}

/* ---- entries ---- */

static bool is_sound(Text path) {
    const uint8_t *at = path.at, *end = at + path.length;
    if (!path.length || memchr(at, 0, path.length)) return false;
    for (;;) {
        const uint8_t *stop = memchr(at, '/', (size_t)(end - at));
        size_t length = (size_t)((stop ? stop : end) - at);
        if (!length || length > LONGEST_NAME || (at[0] == '.' && (length == 1 || (length == 2 && at[1] == '.')))) return false;
        if (!stop) return true;
        at = stop + 1;
    }
}

/* The path below the root; 0, or what is wrong with it. The root itself is empty. */
static int strip_root(const Listing *l, Text *path, int type) {
    if (type == DIRECTORY && path->length > 1 && path->at[path->length - 1] == '/') path->length--;
    if (l->relative) {
        if (path->length == 1 && *path->at == '.') path->length = 0;
        return path->length && *path->at == '/' ? FOREIGN : 0;
    }
    if (path->length < l->prefix_length || memcmp(path->at, l->prefix, l->prefix_length)) return FOREIGN;
    path->at += l->prefix_length, path->length -= l->prefix_length;
    if (!path->length || (l->prefix_length && l->prefix[l->prefix_length - 1] == '/')) return 0;
    if (*path->at != '/') return FOREIGN;
    path->at++, path->length--;
    return path->length ? 0 : BAD_PATH;
}

/* One directory of its own line. */
static int add_directory(Listing *l, Text path) {
    Known *known = directory_of(l, path.at, path.length);
    if (!known) return -1;
    if (known->listed) {
        if (!known->excluded) note_fault(l, l->line, TWICE, path);
        return 0;
    }
    known->listed = true;
    l->crawl->worker[0].entries++;
    return 0;
}

/* 0, or -1 without memory. */
static int add_entry(Listing *l, const RawEntry *raw) {
    Text path = raw->path;
    int type = OTHER;
    if (!raw->type.at || !parse_type(raw->type, raw->type_role, &type)) return note_fault(l, l->line, BAD_TYPE, raw->type), 0;
    if (l->escapes) {
        int wrong = take_escapes(l, &path);
        if (wrong < 0) return -1;
        if (wrong) return note_fault(l, l->line, BAD_PATH, path), 0;
    }
    Text whole = path;
    int wrong = strip_root(l, &path, type);
    if (!wrong && path.length && !is_sound(path)) wrong = BAD_PATH;
    if (!wrong && !path.length && type != DIRECTORY) wrong = BAD_PATH;
    if (wrong) return note_fault(l, l->line, wrong, whole), 0;
    if (type == DIRECTORY) return add_directory(l, path);
    Item item = {.type = type};
    if (type == REGULAR && !parse_whole(raw->size, &item.size)) return note_fault(l, l->line, BAD_SIZE, raw->size), 0;
    if (type == REGULAR && l->crawl->mtime &&
        !(raw->time_role == TIME_FIELD ? parse_seconds : parse_ns)(raw->time, &item.mtime))
        return note_fault(l, l->line, BAD_TIME, raw->time), 0;
    const uint8_t *name = path.at + path.length;
    while (name > path.at && name[-1] != '/') name--;
    Known *above = directory_of(l, path.at, name > path.at ? (size_t)(name - path.at) - 1 : 0);
    if (!above) return -1;
    if (above->excluded || (type == SYMLINK && l->crawl->links == SKIP_LINKS)) return 0;
    char kept[LONGEST_NAME + 1];
    item.length = (size_t)(path.at + path.length - name);
    memcpy(kept, name, item.length);
    kept[item.length] = 0;
    item.name = kept;
    if (l->crawl->glob_words && is_excluded(l->crawl, above->dir, kept, item.length)) return 0;
    l->crawl->worker[0].entries++;
    l->crawl->worker[0].bytes += (uint64_t)item.size;
    return append(l, above, &item);
}

static void put_field(RawEntry *raw, int role, Text text) {
    switch (role) {
    case TYPE_LETTER: case TYPE_WORD: case TYPE_OCTAL: raw->type = text, raw->type_role = role; break;
    case SIZE_FIELD: raw->size = text; break;
    case TIME_FIELD: case TIME_NS_FIELD: raw->time = text, raw->time_role = role; break;
    case PATH_FIELD: raw->path = text; break;
    case PARENT_FIELD: raw->parent = text; break;
    case NAME_FIELD: raw->name = text; break;
    default: break;
    }
}

/* A record whose fields have a text behind each but the last one, which goes to the end. */
static bool split_printed(const Listing *l, Text line, RawEntry *raw) {
    const uint8_t *at = line.at, *end = at + line.length;
    for (int i = 0; i < l->field_count; i++) {
        const Field *field = &l->fields[i];
        const uint8_t *stop = end;
        if (i + 1 < l->field_count) {
            stop = field->length && at < end ? memmem(at, (size_t)(end - at), field->text, field->length) : NULL;
            if (!stop) return false;
        }
        put_field(raw, field->role, (Text){at, (size_t)(stop - at)});
        at = stop + (i + 1 < l->field_count ? field->length : 0);
    }
    return true;
}

/* inode generation snapshot mode size … -- path */
static bool split_policy(Text line, RawEntry *raw) {
    const uint8_t *at = line.at, *end = at + line.length;
    for (int token = 0;; token++) {
        while (at < end && *at == ' ') at++;
        const uint8_t *stop = at < end ? memchr(at, ' ', (size_t)(end - at)) : NULL;
        if (!stop) return false;
        Text text = {at, (size_t)(stop - at)};
        int64_t number;
        if (token < 3 && !parse_whole(text, &number)) return false;
        if (token == 3) put_field(raw, TYPE_LETTER, text);
        if (token == 4) put_field(raw, SIZE_FIELD, text);
        at = stop;
        if (text.length == 2 && text.at[0] == '-' && text.at[1] == '-') {
            put_field(raw, PATH_FIELD, (Text){at + 1, (size_t)(end - at - 1)});
            return token > 4;
        }
    }
}

/* The end of a record of commas, which may hold newlines in quotes; NULL when it is not there yet. */
static const uint8_t *end_of_commas(const uint8_t *at, const uint8_t *end) {
    for (bool quoted = false; at < end; at++) {
        if (*at == '"') quoted = !quoted;
        else if (*at == '\n' && !quoted) return at;
    }
    return NULL;
}

/* 1: split, 0: torn, -1: no memory. */
static int split_commas(Listing *l, Text line, RawEntry *raw) {
    if (line.length && line.at[line.length - 1] == '\r') line.length--;
    uint8_t *to = room_for(&l->scratch, &l->scratch_room, 2 * line.length + 2);
    if (!to) return -1;
    const uint8_t *at = line.at, *end = at + line.length;
    int count = 0;
    for (bool more = true; more; count++) {
        Text text = {to, 0};
        if (at < end && *at == '"') {
            for (at++;; at++) {
                if (at == end) return 0;
                if (*at == '"' && (++at == end || *at != '"')) break;
                *to++ = *at;
            }
            if (at < end && *at != ',') return 0;
            text.length = (size_t)(to - text.at);
        } else {
            const uint8_t *stop = at < end ? memchr(at, ',', (size_t)(end - at)) : NULL;
            text = (Text){at, (size_t)((stop ? stop : end) - at)};
            if (text.length && memchr(text.at, '"', text.length)) return 0;
            at += text.length;
        }
        more = at < end;
        at += more;
        if (count < l->field_count) put_field(raw, l->fields[count].role, text);
        if (more && at == end) { /* a comma is the last character: an empty field */
            count++;
            if (count < l->field_count) put_field(raw, l->fields[count].role, (Text){to, 0});
            more = false;
        }
    }
    if (count != l->field_count) return 0;
    if (!raw->name.at) return 1;
    size_t above = raw->parent.length;
    while (above > 1 && raw->parent.at[above - 1] == '/') above--;
    uint8_t *path = to;
    if (above) memcpy(to, raw->parent.at, above), to += above;
    if (above && to[-1] != '/') *to++ = '/';
    if (raw->name.length) memcpy(to, raw->name.at, raw->name.length), to += raw->name.length;
    raw->path = (Text){path, (size_t)(to - path)};
    return 1;
}

/* 0, or -1 without memory. */
static int take_record(Listing *l, Text line) {
    RawEntry raw = {0};
    if (l->comments && line.length && *line.at == '#') {
        l->complete = line.length >= 10 && !memcmp(line.at, "#complete#", 10);
        return 0;
    }
    int split = l->kind == POLICY ? split_policy(line, &raw) : l->kind == COMMAS ? split_commas(l, line, &raw) : split_printed(l, line, &raw);
    if (split < 0) return -1;
    if (!split || !raw.path.at) return note_fault(l, l->line, TORN, line), 0;
    return add_entry(l, &raw);
}

ptrdiff_t feed_listing(Listing *l, const uint8_t *data, size_t size, bool last) {
    const uint8_t *at = data, *end = data + size;
    while (at < end && !atomic_load(&l->crawl->no_memory)) {
        const uint8_t *stop = l->kind == COMMAS ? end_of_commas(at, end) : memchr(at, l->end, (size_t)(end - at));
        if (!stop && !last) break;
        l->line++;
        l->complete = false;
        if (!stop) {
            note_fault(l, l->line, TORN, (Text){at, (size_t)(end - at)});
            at = end;
            break;
        }
        if (take_record(l, (Text){at, (size_t)(stop - at)})) return l->failed = true, -1;
        if (l->kind == COMMAS) /* newlines in quotes are lines of the file, too */
            for (const uint8_t *inner = at; (inner = memchr(inner, '\n', (size_t)(stop - inner))); inner++) l->line++;
        at = stop + 1;
    }
    if (atomic_load(&l->crawl->no_memory)) return l->failed = true, -1;
    return at - data;
}

/* Whether a directory and something else have one name. */
static bool has_dropped(const Crawl *crawl, const Dir *dir) {
    if (!dir->counts[1] || !dir->counts[0]) return false;
    const uint8_t *at = dir->blob, *end = at + dir->blob_size;
    Item item;
    while (at < end) {
        at = read_item(crawl, at, &item);
        if (item.type == DIRECTORY && atomic_load(&item.dir->dropped)) return true;
    }
    return false;
}

static int note_directory(Listing *l, const Known *known, int code) {
    size_t length;
    char *path = path_of(known->dir, NULL, &length);
    if (!path) return -1;
    note_fault(l, known->line, code, (Text){(uint8_t *)path, length});
    free(path);
    return 0;
}

int end_listing(Listing *l) {
    free(l->table), l->table = NULL, l->table_room = 0;
    l->packed = true;
    for (size_t i = 0; i < l->known_count; i++) {
        Known *known = known_at(l, i);
        Dir *dir = known->dir;
        if (known->excluded) continue;
        if (!known->listed && known != l->root && note_directory(l, known, NO_DIRECTORY)) return l->failed = true, -1;
        uint8_t *buffer = dir->blob;
        uint64_t before = 0, after = 0;
        for (int type = 0; type < 4; type++) before += dir->counts[type];
        known->room = 0;
        int failed = repack(l->crawl, dir);
        free(buffer);
        if (failed) {
            dir->blob = NULL, dir->blob_size = 0;
            return l->failed = true, -1;
        }
        for (int type = 0; type < 4; type++) after += dir->counts[type];
        if ((before != after || has_dropped(l->crawl, dir)) && note_directory(l, known, DOUBLES)) return l->failed = true, -1;
    }
    return 0;
}

Listing *begin_listing(Crawl *crawl, int kind, int end, int escapes, bool comments, const uint8_t *prefix, ptrdiff_t prefix_length,
                       const uint8_t *program, size_t program_length) {
    Listing *l = calloc(1, sizeof *l);
    if (!l) return NULL;
    l->crawl = crawl, l->kind = kind, l->end = end, l->escapes = escapes, l->comments = comments;
    l->relative = prefix_length < 0;
    l->prefix_length = l->relative ? 0 : (size_t)prefix_length;
    l->prefix = malloc(l->prefix_length + 1);
    l->program = malloc(program_length + 1);
    if (!l->prefix || !l->program) return free_listing(l), NULL;
    if (l->prefix_length) memcpy(l->prefix, prefix, l->prefix_length);
    if (program_length) memcpy(l->program, program, program_length);
    for (size_t at = 0; at < program_length;) {
        const uint8_t *field = l->program + at;
        if (program_length - at < 2 || field[1] > program_length - at - 2 || l->field_count == MOST_FIELDS) return free_listing(l), NULL;
        l->fields[l->field_count++] = (Field){field[0], field[1], field + 2};
        at += 2u + field[1];
    }
    l->root = add_known(l, crawl->root, 0);
    if (!l->root) return free_listing(l), NULL;
    return l;
}

void free_listing(Listing *l) {
    if (!l) return;
    for (size_t i = 0; i < l->known_count; i++) {
        Known *known = known_at(l, i);
        if (known->room) { /* never packed: its buffer is no arena's */
            free(known->dir->blob);
            known->dir->blob = NULL, known->dir->blob_size = 0;
        }
    }
    /* A block is there from its first directory on, also when that was not noted any more. */
    for (size_t i = 0; i < l->block_count; i++) free(l->blocks[i]);
    free(l->blocks);
    free(l->table), free(l->prefix), free(l->program), free(l->last_path), free(l->scratch), free(l);
}
