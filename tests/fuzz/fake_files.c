/* A file system that bytes stand for: what is in a directory, and what goes wrong there.
 *
 * Input: the fuzzer's bytes. Output: directories, entries, errors, as the kernel gives them.
 * Invariant: the answers about a place depend on the bytes and the place alone, not on who asks when, except that a
 * directory's listing goes on: so threads do not make a run another one. Names are what a kernel may give and a little
 * more (a broken server's), every listing ends, and so does every descent.
 */
#define FAKE_FILES_THEMSELVES
#include "fake_files.h"
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum { FIRST = 1 << 20, DESCRIPTORS = 4096, DEEPEST = 12, LISTINGS = 3, OPENINGS = 400 };

typedef struct { uint32_t place; int depth, listed; bool open; } File;

static const uint8_t *bytes;
static size_t count;
static File files[DESCRIPTORS];
static int used, openings;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

void fake_begin(const uint8_t *data, size_t size) {
    static uint8_t kept[1 << 16];
    count = size < sizeof kept ? size : sizeof kept;
    memcpy(kept, data, count);
    bytes = kept;
    used = openings = 0;
}

int fake_open_count(void) {
    int found = 0;
    for (int i = 0; i < used; i++) found += files[i].open;
    return found;
}

/* The byte that a place has at a position. */
static uint8_t byte_at(uint32_t place, uint32_t position) {
    return count ? bytes[(place % count + position) % count] : 0;
}

static uint32_t mix(uint32_t place, uint32_t value) {
    place = (place ^ value) * 0x9E3779B1u;
    return place ^ place >> 15;
}

/* The place of a path below another; "." is the place itself. Counts its levels. */
static uint32_t find(uint32_t place, const char *path, int *depth) {
    while (*path) {
        size_t length = strcspn(path, "/");
        if (length && !(length == 1 && path[0] == '.')) {
            for (size_t i = 0; i < length; i++) place = mix(place, (uint8_t)path[i] + 1u);
            place = mix(place, 0), ++*depth;
        }
        path += length + (path[length] == '/');
    }
    return place;
}

static int take(uint32_t place, int depth) {
    int found = -1;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < used && found < 0; i++)
        if (!files[i].open) found = i;
    if (found < 0 && used < DESCRIPTORS) found = used++;
    if (found >= 0) files[found] = (File){place, depth, 0, true};
    pthread_mutex_unlock(&lock);
    if (found < 0) return errno = ENFILE, -1;
    return FIRST + found;
}

static File *file_of(int descriptor) {
    if (descriptor < FIRST || descriptor >= FIRST + used || !files[descriptor - FIRST].open) __builtin_trap();
    return &files[descriptor - FIRST];
}

int fake_open(const char *path, int flags) {
    (void)path, (void)flags;
    return take(0, 0);
}

int fake_openat(int at, const char *path, int flags) {
    static const int ERRORS[] = {ENOENT, EACCES, ENOTDIR, ELOOP, EIO, ESTALE, ENAMETOOLONG, EMFILE};
    pthread_mutex_lock(&lock);
    File from = *file_of(at);
    bool enough = ++openings > OPENINGS;
    pthread_mutex_unlock(&lock);
    int depth = from.depth;
    uint32_t place = find(from.place, path, &depth);
    uint8_t what = byte_at(place, 7);
    if (enough || depth > DEEPEST) return errno = ENOENT, -1;
    if (!(flags & O_PATH) && what >= 224) return errno = ERRORS[what % 8], -1;
    return take(place, depth);
}

int fake_close(int descriptor) {
    pthread_mutex_lock(&lock);
    file_of(descriptor)->open = false;
    pthread_mutex_unlock(&lock);
    return 0;
}

static void fill(uint32_t place, struct stat *status) {
    static const mode_t MODES[] = {S_IFREG, S_IFREG, S_IFREG, S_IFDIR, S_IFDIR, S_IFLNK, S_IFIFO, S_IFSOCK};
    static const int64_t SIZES[] = {0, 1, 255, 256, 65536, 1LL << 40, INT64_MAX, INT64_MAX / 2};
    uint8_t a = byte_at(place, 1), b = byte_at(place, 2), c = byte_at(place, 3);
    memset(status, 0, sizeof *status);
    status->st_mode = MODES[a % 8];
    status->st_size = a < 64 ? SIZES[b % 8] : b;
    status->st_dev = c % 16 == 0;
    status->st_ino = c < 200 ? c : UINT64_MAX - c;
    status->st_nlink = 1 + (c & 1);
    status->st_blocks = a < 16 ? INT64_MAX : b;
    status->st_mtim.tv_sec = a < 16 ? INT64_MAX - b : a < 32 ? INT64_MIN + b : (int64_t)b * c;
    status->st_mtim.tv_nsec = b % 2 ? 999999999 : 0;
}

int fake_fstat(int descriptor, struct stat *status) {
    pthread_mutex_lock(&lock);
    uint32_t place = file_of(descriptor)->place;
    pthread_mutex_unlock(&lock);
    fill(place, status);
    if (!place) status->st_dev = 0, status->st_ino = 1;
    status->st_mode = S_IFDIR;
    return 0;
}

int fake_fstatat(int at, const char *name, struct stat *status, int flags) {
    static const int ERRORS[] = {ENOENT, EACCES, EIO, ENOTDIR};
    pthread_mutex_lock(&lock);
    File from = *file_of(at);
    pthread_mutex_unlock(&lock);
    int depth = from.depth;
    uint32_t place = find(from.place, name, &depth);
    uint8_t what = byte_at(place, 5);
    if (what >= 240) return errno = ERRORS[what % 4], -1;
    fill(place, status);
    /* What a link leads to. */
    if (!(flags & AT_SYMLINK_NOFOLLOW) && S_ISLNK(status->st_mode)) {
        if (what >= 128) return errno = ENOENT, -1;
        status->st_mode = what % 2 ? S_IFDIR : S_IFREG;
    }
    return 0;
}

ssize_t fake_getdents64(int descriptor, void *buffer, size_t room) {
    static const uint8_t KINDS[] = {DT_REG, DT_DIR, DT_LNK, DT_UNKNOWN, DT_REG, DT_DIR, DT_FIFO, DT_SOCK};
    pthread_mutex_lock(&lock);
    File *file = file_of(descriptor);
    uint32_t place = file->place;
    int listed = file->listed++;
    pthread_mutex_unlock(&lock);
    uint32_t at = 16 + (uint32_t)listed * 97;
    uint8_t what = byte_at(place, at++);
    if (listed >= LISTINGS) return 0;
    if (what >= 248) return errno = what % 2 ? EIO : ENOENT, -1;
    if (what >= 244) return errno = EINTR, -1;
    if (what < 24) return 0;
    size_t filled = 0;
    for (int left = what % 32 + 1; left > 0; left--) {
        uint8_t kind = byte_at(place, at++), length = byte_at(place, at++);
        length = kind >= 250 ? 255 : length % 24;
        struct dirent64 *entry = (struct dirent64 *)((char *)buffer + filled);
        size_t size = (offsetof(struct dirent64, d_name) + length + 8) / 8 * 8;
        if (filled + size > room) break;
        memset(entry, 0, size);
        entry->d_type = KINDS[kind % 8];
        entry->d_reclen = (unsigned short)size;
        for (int i = 0; i < length; i++) entry->d_name[i] = (char)byte_at(place, at++);
        filled += size;
    }
    return (ssize_t)filled;
}

int fake_nanosleep(const struct timespec *time, struct timespec *left) {
    (void)time, (void)left;
    return 0;
}

/* Few descriptors, so that directories are opened by path, too. */
int fake_getrlimit(int resource, struct rlimit *limit) {
    (void)resource;
    limit->rlim_cur = limit->rlim_max = 160 + 2 * (byte_at(0, 9) % 16);
    return 0;
}

int fake_setrlimit(int resource, const struct rlimit *limit) {
    (void)resource, (void)limit;
    return 0;
}
