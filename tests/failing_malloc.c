/* Memory that runs out: preloaded, it lets one allocation of one module fail.
 *
 * memory_watch(low, high) names the module by its addresses, memory_fail(n)
 * lets the n-th of its allocations from now on fail (and with `ever` all
 * after it), memory_seen() tells how many there were.
 */
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);

static _Atomic uintptr_t low, high;
static _Atomic long seen, victim;
static _Atomic bool ever;

void memory_watch(uintptr_t from, uintptr_t to) { low = from, high = to; }
void memory_fail(long number, bool all_after) { seen = 0, ever = all_after, victim = number; }
long memory_seen(void) { return seen; }

static bool fails(void *caller) {
    uintptr_t from = (uintptr_t)caller;
    if (from < low || from >= high) return false;
    long number = ++seen;
    return victim && (number == victim || (ever && number > victim));
}

void *malloc(size_t size) { return fails(__builtin_return_address(0)) ? NULL : __libc_malloc(size); }
void *calloc(size_t count, size_t size) {
    return fails(__builtin_return_address(0)) ? NULL : __libc_calloc(count, size);
}
void *realloc(void *old, size_t size) { return fails(__builtin_return_address(0)) ? NULL : __libc_realloc(old, size); }
