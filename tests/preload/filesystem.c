/* File systems that lack something, by LD_PRELOAD. LACKS is a list of words:
   links     hard links answer EPERM (FAT, SMB, many FUSE)
   far-links links between directories answer EXDEV (BeeGFS before 7.4, AFS)
   noreplace renameat2 answers EINVAL (NFS)
   syncdir   fsync of a directory answers EINVAL (CIFS before Linux 4.17)
   flock     locks answer ENOLCK (NFS without a lock daemon)
   space     every write of more than one byte to a path below LACKS_BELOW answers ENOSPC
   quota     the same, EDQUOT */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static int lacks(const char *word) {
    const char *list = getenv("LACKS");
    const char *at = list ? strstr(list, word) : NULL;
    return at && (at == list || at[-1] == ' ') && (at[strlen(word)] == 0 || at[strlen(word)] == ' ');
}

static size_t folder(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? (size_t)(slash - path) : 0;
}

static int no_link(const char *from, const char *to) {
    if (lacks("links")) { errno = EPERM; return 1; }
    if (lacks("far-links") && (folder(from) != folder(to) || strncmp(from, to, folder(from)))) { errno = EXDEV; return 1; }
    return 0;
}

int link(const char *from, const char *to) {
    if (no_link(from, to)) return -1;
    return ((int (*)(const char *, const char *))dlsym(RTLD_NEXT, "link"))(from, to);
}

int linkat(int a, const char *from, int b, const char *to, int flags) {
    if (no_link(from, to)) return -1;
    return ((int (*)(int, const char *, int, const char *, int))dlsym(RTLD_NEXT, "linkat"))(a, from, b, to, flags);
}

int renameat2(int a, const char *from, int b, const char *to, unsigned flags) {
    if (flags && lacks("noreplace")) { errno = EINVAL; return -1; }
    return ((int (*)(int, const char *, int, const char *, unsigned))dlsym(RTLD_NEXT, "renameat2"))(a, from, b, to, flags);
}

int fsync(int descriptor) {
    struct stat status;
    if (lacks("syncdir") && !fstat(descriptor, &status) && S_ISDIR(status.st_mode)) { errno = EINVAL; return -1; }
    return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(descriptor);
}

int flock(int descriptor, int operation) {
    if (lacks("flock")) { errno = ENOLCK; return -1; }
    return ((int (*)(int, int))dlsym(RTLD_NEXT, "flock"))(descriptor, operation);
}

static int is_full(int descriptor, size_t size) {
    const char *below = getenv("LACKS_BELOW");
    char name[64], path[PATH_MAX];
    if (!below || size < 2 || !(lacks("space") || lacks("quota"))) return 0;
    snprintf(name, sizeof name, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(name, path, sizeof path - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    if (strncmp(path, below, strlen(below))) return 0;
    errno = lacks("quota") ? EDQUOT : ENOSPC;
    return 1;
}

ssize_t write(int descriptor, const void *bytes, size_t size) {
    if (is_full(descriptor, size)) return -1;
    return ((ssize_t (*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write"))(descriptor, bytes, size);
}

ssize_t pwrite64(int descriptor, const void *bytes, size_t size, off64_t at) {
    if (is_full(descriptor, size)) return -1;
    return ((ssize_t (*)(int, const void *, size_t, off64_t))dlsym(RTLD_NEXT, "pwrite64"))(descriptor, bytes, size, at);
}
