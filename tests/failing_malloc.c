/* Memory that runs out: preloaded, it lets one allocation of one module fail, and counts what the module does not free.
 *
 * memory_watch(low, high) names the module by its addresses, memory_fail(n)
 * lets the n-th of its allocations from now on fail (and with `ever` all
 * after it), memory_seen() tells how many there were, memory_held() how many
 * of all that it ever made nobody has freed.
 */
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);
void __libc_free(void *);

enum { ROOM = 1 << 20 };
static _Atomic uintptr_t low, high;
static _Atomic long seen, victim, held;
static _Atomic bool ever;
/* What the module holds: a table of addresses, 1 where one was. */
static uintptr_t table[ROOM];
static atomic_flag busy = ATOMIC_FLAG_INIT;

void memory_watch(uintptr_t from, uintptr_t to) { low = from, high = to; }
void memory_fail(long number, bool all_after) { seen = 0, ever = all_after, victim = number; }
long memory_seen(void) { return seen; }
long memory_held(void) { return held; }

static bool is_watched(void *caller) { return (uintptr_t)caller >= low && (uintptr_t)caller < high; }

static bool fails(void *caller) {
    if (!is_watched(caller)) return false;
    long number = ++seen;
    return victim && (number == victim || (ever && number > victim));
}

static size_t place_of(uintptr_t address) { return (address * 0x9E3779B97F4A7C15u) >> 44; }

static void *keep(void *caller, void *memory) {
    if (!memory || !is_watched(caller)) return memory;
    while (atomic_flag_test_and_set(&busy)) {}
    size_t at = place_of((uintptr_t)memory);
    for (size_t left = ROOM; left && table[at] > 1; left--) at = (at + 1) % ROOM;
    table[at] = (uintptr_t)memory, held++;
    atomic_flag_clear(&busy);
    return memory;
}

static bool drop(void *memory) {
    if (!memory || !held) return false;
    bool found = false;
    while (atomic_flag_test_and_set(&busy)) {}
    size_t at = place_of((uintptr_t)memory);
    for (size_t left = ROOM; left && table[at] && !found; left--, at = (at + 1) % ROOM)
        if (table[at] == (uintptr_t)memory) table[at] = 1, held--, found = true;
    atomic_flag_clear(&busy);
    return found;
}

void *malloc(size_t size) {
    void *caller = __builtin_return_address(0);
    return fails(caller) ? NULL : keep(caller, __libc_malloc(size));
}

void *calloc(size_t count, size_t size) {
    void *caller = __builtin_return_address(0);
    return fails(caller) ? NULL : keep(caller, __libc_calloc(count, size));
}

void *realloc(void *old, size_t size) {
    void *caller = __builtin_return_address(0);
    if (fails(caller)) return NULL;
    bool ours = drop(old);
    void *memory = __libc_realloc(old, size);
    if (!memory && ours && size) keep((void *)low, old);
    return keep(caller, memory);
}

void free(void *memory) {
    drop(memory);
    __libc_free(memory);
}
