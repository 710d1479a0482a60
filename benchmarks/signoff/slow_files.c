/* A busy file server: preloaded, it sleeps before each look at a file below an open directory.
 *
 * LADING_LATENCY_US microseconds before every status and every opening that
 * is relative to an open directory (openat, and openat2 by its number):
 * what a request over a network costs. The interpreter
 * makes no such calls when it starts.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#define OPENAT2 437

static void pause_once(void) {
    static long microseconds = -1;
    if (microseconds < 0) {
        const char *text = getenv("LADING_LATENCY_US");
        microseconds = text ? atol(text) : 0;
    }
    if (microseconds <= 0) return;
    struct timespec time = {microseconds / 1000000, microseconds % 1000000 * 1000};
    nanosleep(&time, NULL);
}

#define NEXT(name) static __typeof__(name) *next; if (!next) next = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

int openat64(int directory, const char *path, int flags, ...) {
    NEXT(openat64);
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    if (directory != AT_FDCWD) pause_once();
    return next(directory, path, flags, mode);
}

int fstatat64(int directory, const char *path, struct stat64 *status, int flags) {
    NEXT(fstatat64);
    if (directory != AT_FDCWD) pause_once();
    return next(directory, path, status, flags);
}

long syscall(long number, ...) {
    NEXT(syscall);
    va_list rest;
    va_start(rest, number);
    long a = va_arg(rest, long), b = va_arg(rest, long), c = va_arg(rest, long), d = va_arg(rest, long);
    long e = va_arg(rest, long), f = va_arg(rest, long);
    va_end(rest);
    if (number == OPENAT2) pause_once();
    return next(number, a, b, c, d, e, f);
}
