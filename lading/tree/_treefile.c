/* Parse find.json into the columns of a FlatTree, block by block.
 *
 * Input: the bytes of a tree file as find.py writes it: compact, ASCII.
 * Output: the columns, as bytearrays of native int8 and int64.
 * Invariant: only a canonical tree is accepted (order, unique names, sums).
 * Anything else makes feed() or finish() return None: the caller then reads
 * again with the Python reader, which accepts any JSON layout and names
 * every fault. So the two cannot disagree on what is wrong.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { OTHER = -1, DIRECTORY = 0, FILE_NODE = 1, LINK = 2 };
enum { MORE = 0, OK = 1, BAD = -1, FAILED = -2 };
enum { LONGEST_NODE = 1 << 16 };

typedef struct {
    int64_t node, sum, last_node; /* last_node: the child before, or -1 */
} Open;

typedef struct {
    PyObject_HEAD
    PyObject *types, *sizes, *ends, *offsets, *names, *mtimes; /* bytearrays with room to grow */
    int8_t *type;
    int64_t *size, *end, *offset, *mtime;
    unsigned char *name;
    int64_t count, room, name_bytes, name_room;
    Open *open;
    int64_t depth, open_room;
    char *carry;
    int64_t carried, carry_room;
    int timed; /* -1 until the first file, then whether files carry a time */
    int over;  /* the root is closed */
    int bad;
} Reader;

static int resize(PyObject *bytes, int64_t length) { return PyByteArray_Resize(bytes, (Py_ssize_t)length); }

static int reserve_nodes(Reader *r) {
    if (r->count < r->room) return 0;
    int64_t room = r->room ? r->room + r->room / 2 : 1 << 16;
    if (resize(r->types, room) || resize(r->sizes, room * 8) || resize(r->ends, room * 8) ||
        resize(r->offsets, (room + 1) * 8) || resize(r->mtimes, r->timed == 0 ? 0 : room * 8))
        return -1;
    r->room = room;
    r->type = (int8_t *)PyByteArray_AsString(r->types);
    r->size = (int64_t *)PyByteArray_AsString(r->sizes);
    r->end = (int64_t *)PyByteArray_AsString(r->ends);
    r->offset = (int64_t *)PyByteArray_AsString(r->offsets);
    r->mtime = (int64_t *)PyByteArray_AsString(r->mtimes);
    return 0;
}

static int reserve_names(Reader *r, int64_t more) {
    if (r->name_bytes + more <= r->name_room) return 0;
    int64_t room = (r->name_bytes + more) + (r->name_bytes + more) / 2 + (1 << 16);
    if (resize(r->names, room)) return -1;
    r->name_room = room;
    r->name = (unsigned char *)PyByteArray_AsString(r->names);
    return 0;
}

/* Decode one code point as Python's utf-8 with surrogateescape does: a byte that is no UTF-8 is U+DC00 + byte. */
static uint32_t code_point(const unsigned char *s, int64_t n, int64_t *used) {
    unsigned char a = s[0];
    *used = 1;
    if (a < 0x80) return a;
    int more = a >= 0xf0 ? 3 : a >= 0xe0 ? 2 : 1;
    if (a < 0xc2 || a > 0xf4 || n <= more) return 0xdc00u + a;
    uint32_t c = a & (0x3f >> more);
    for (int i = 1; i <= more; i++) {
        if ((s[i] & 0xc0) != 0x80) return 0xdc00u + a;
        c = c << 6 | (s[i] & 0x3f);
    }
    static const uint32_t least[] = {0, 0x80, 0x800, 0x10000};
    if (c < least[more] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000)) return 0xdc00u + a;
    *used = 1 + more;
    return c;
}

/* Compare two names by code point: < 0, 0, > 0. Bytes decide unless the first difference is not ASCII on both sides. */
static int compare_names(const unsigned char *a, int64_t na, const unsigned char *b, int64_t nb) {
    int64_t i = 0, least = na < nb ? na : nb;
    while (i < least && a[i] == b[i]) i++;
    if (i == na && i == nb) return 0;
    if (i < least && a[i] < 0x80 && b[i] < 0x80) return a[i] < b[i] ? -1 : 1;
    int64_t p = 0, q = 0;
    while (p < na && q < nb) {
        int64_t used_a, used_b;
        uint32_t x = code_point(a + p, na - p, &used_a), y = code_point(b + q, nb - q, &used_b);
        if (x != y) return x < y ? -1 : 1;
        p += used_a, q += used_b;
    }
    return p < na ? 1 : q < nb ? -1 : 0;
}

static int hex4(const char *s, uint32_t *value) {
    uint32_t v = 0;
    for (int i = 0; i < 4; i++) {
        char c = s[i];
        v <<= 4;
        if (c >= '0' && c <= '9') v |= (uint32_t)(c - '0');
        else if (c >= 'a' && c <= 'f') v |= (uint32_t)(c - 'a' + 10);
        else if (c >= 'A' && c <= 'F') v |= (uint32_t)(c - 'A' + 10);
        else return -1;
    }
    *value = v;
    return 0;
}

/* Decode the JSON string text[0..n), without its quotes, into out; returns the bytes written or -1. */
static int64_t decode_name(const char *text, int64_t n, unsigned char *out) {
    unsigned char *o = out;
    for (int64_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c != '\\') {
            if (c < 0x20 || c >= 0x80) return -1;
            *o++ = c;
            continue;
        }
        if (++i >= n) return -1;
        switch (text[i]) {
        case '"': case '\\': *o++ = (unsigned char)text[i]; continue;
        case 'b': *o++ = '\b'; continue;
        case 'f': *o++ = '\f'; continue;
        case 'n': *o++ = '\n'; continue;
        case 'r': *o++ = '\r'; continue;
        case 't': *o++ = '\t'; continue;
        case 'u': break;
        default: return -1; /* a slash too: no name holds one */
        }
        uint32_t p, low;
        if (i + 4 >= n || hex4(text + i + 1, &p)) return -1;
        i += 4;
        if (p >= 0xd800 && p < 0xdc00) {
            if (i + 6 >= n || text[i + 1] != '\\' || text[i + 2] != 'u' || hex4(text + i + 3, &low) ||
                low < 0xdc00 || low > 0xdfff)
                return -1;
            p = 0x10000 + ((p - 0xd800) << 10) + (low - 0xdc00);
            i += 6;
        }
        if (p == 0 || p == '/') return -1;
        if (p < 0x80) *o++ = (unsigned char)p;
        else if (p >= 0xdc00 && p < 0xe000) {
            if (p < 0xdc80 || p > 0xdcff) return -1;
            *o++ = (unsigned char)(p - 0xdc00);
        } else {
            if (p < 0x800) *o++ = (unsigned char)(0xc0 | p >> 6);
            else {
                if (p < 0x10000) *o++ = (unsigned char)(0xe0 | p >> 12);
                else {
                    *o++ = (unsigned char)(0xf0 | p >> 18);
                    *o++ = (unsigned char)(0x80 | (p >> 12 & 0x3f));
                }
                *o++ = (unsigned char)(0x80 | (p >> 6 & 0x3f));
            }
            *o++ = (unsigned char)(0x80 | (p & 0x3f));
        }
    }
    return o - out;
}

/* Read an integer at *at; MORE when the text ends before its terminator. */
static int read_number(const char **at, const char *stop, int64_t *value) {
    const char *p = *at;
    int negative = p < stop && *p == '-';
    p += negative;
    uint64_t v = 0;
    const char *first = p;
    while (p < stop && *p >= '0' && *p <= '9') {
        if (p - first > 17) return BAD; /* 19 digits may overflow: left to the Python reader */
        v = v * 10 + (uint64_t)(*p++ - '0');
    }
    if (p == stop) return MORE;
    if (p == first) return BAD;
    *value = negative ? -(int64_t)v : (int64_t)v;
    *at = p;
    return OK;
}

static int close_directory(Reader *r) {
    if (!r->depth) return BAD;
    Open *o = &r->open[--r->depth];
    if (o->sum != r->size[o->node]) return BAD;
    r->end[o->node] = r->count;
    if (!r->depth) r->over = 1;
    return OK;
}

/* Read `["name",type,size` with its end if it is a leaf; *at is at the bracket. */
static int read_node(Reader *r, const char **at, const char *stop) {
    const char *p = *at;
    if (stop - p < 2) return MORE;
    if (p[0] != '[' || p[1] != '"') return BAD;
    const char *text = p + 2, *q = text;
    for (;; q++) {
        q = memchr(q, '"', (size_t)(stop - q));
        if (!q) return MORE;
        const char *b = q;
        while (b > text && b[-1] == '\\') b--;
        if ((q - b) % 2 == 0) break;
    }
    p = q + 1;
    int64_t kind, size, mtime = 0;
    int status;
    if (p == stop) return MORE;
    if (*p++ != ',') return BAD;
    if ((status = read_number(&p, stop, &kind)) != OK) return status;
    if (*p++ != ',') return BAD;
    if ((status = read_number(&p, stop, &size)) != OK) return status;
    if (size < 0 || kind < OTHER || kind > LINK) return BAD;
    if (kind == FILE_NODE) {
        int timed = *p == ',';
        if (timed) {
            p++;
            const char *digits = p;
            if ((status = read_number(&p, stop, &mtime)) == BAD) {
                /* nanoseconds since 1970 have 19 digits since 2001 */
                char *after;
                char number[24];
                size_t length = 0;
                while (digits + length < stop && length < 23
                       && (digits[length] == '-' || (digits[length] >= '0' && digits[length] <= '9')))
                    length++; /* no strchr: it finds the NUL, too */
                if (digits + length == stop) return MORE;
                if (length < 18 || length > 20) return BAD;
                memcpy(number, digits, length);
                number[length] = 0;
                errno = 0;
                mtime = strtoll(number, &after, 10);
                if (errno || *after) return BAD;
                p = digits + length;
            } else if (status != OK)
                return status;
        }
        if (r->timed < 0) r->timed = timed;
        if (r->timed != timed) return BAD;
    }
    if (kind != DIRECTORY) {
        if (*p != ']') return BAD;
        p++;
    } else if (*p != ',' && *p != ']')
        return BAD;

    if (reserve_nodes(r) || reserve_names(r, q - text + 1)) return FAILED; /* + 1: there are columns for no name, too */
    int64_t node = r->count, start = r->name_bytes;
    int64_t length = decode_name(text, q - text, r->name + start);
    if (length < 0) return BAD;
    const unsigned char *name = r->name + start;
    if (node == 0) {
        if (kind != DIRECTORY) return BAD;
        r->offset[0] = 0;
    } else {
        if (!r->depth) return BAD;
        if (length == 0 || (name[0] == '.' && (length == 1 || (length == 2 && name[1] == '.')))) return BAD;
        if (memchr(name, '/', (size_t)length)) return BAD;
        Open *parent = &r->open[r->depth - 1];
        if (parent->last_node >= 0) {
            int64_t l = parent->last_node;
            if (kind < r->type[l]) return BAD;
            if (kind == r->type[l] &&
                compare_names(r->name + r->offset[l], r->offset[l + 1] - r->offset[l], name, length) >= 0)
                return BAD;
        }
        parent->last_node = node;
        if (__builtin_add_overflow(parent->sum, size, &parent->sum)) return BAD;
    }
    r->name_bytes = start + length;
    r->type[node] = (int8_t)kind;
    r->size[node] = size;
    r->end[node] = node + 1;
    r->offset[node + 1] = r->name_bytes;
    if (r->timed) r->mtime[node] = mtime;
    r->count++;
    if (kind == DIRECTORY) {
        if (r->depth == r->open_room) {
            int64_t room = r->open_room ? r->open_room * 2 : 256;
            Open *grown = realloc(r->open, (size_t)room * sizeof(Open));
            if (!grown) {
                PyErr_NoMemory();
                return FAILED;
            }
            r->open = grown, r->open_room = room;
        }
        r->open[r->depth++] = (Open){node, 0, -1};
    }
    *at = p;
    return OK;
}

static int parse(Reader *r, const char **at, const char *stop) {
    const char *p = *at;
    int status = OK;
    while (p < stop) {
        if (r->over) {
            if (*p != '\n') return BAD;
            p++;
        } else if (*p == ']') {
            if ((status = close_directory(r)) != OK) break;
            p++;
        } else {
            const char *q = p;
            if (r->count) {
                if (*q != ',') return BAD;
                q++;
            }
            if ((status = read_node(r, &q, stop)) != OK) break;
            p = q;
        }
    }
    *at = p;
    return status == MORE ? OK : status;
}

static PyObject *reader_feed(PyObject *self, PyObject *arguments) {
    Reader *r = (Reader *)self;
    const char *block;
    Py_ssize_t length;
    if (!PyArg_ParseTuple(arguments, "y#:feed", &block, &length)) return NULL;
    if (r->bad) Py_RETURN_FALSE;
    int status = OK;
    const char *at = block, *stop = block + length;
    if (r->carried) {
        if (r->carried + length > r->carry_room) {
            char *grown = realloc(r->carry, (size_t)(r->carried + length));
            if (!grown) return PyErr_NoMemory();
            r->carry = grown, r->carry_room = r->carried + length;
        }
        memcpy(r->carry + r->carried, block, (size_t)length);
        at = r->carry, stop = r->carry + r->carried + length;
    }
    status = parse(r, &at, stop);
    if (status == FAILED) {
        r->bad = 1; /* a column may have moved while another had no room */
        return NULL;
    }
    if (status == BAD || stop - at > LONGEST_NODE) {
        r->bad = 1;
        Py_RETURN_FALSE;
    }
    int64_t left = stop - at;
    if (left > r->carry_room) {
        char *grown = realloc(r->carry, (size_t)left);
        if (!grown) return PyErr_NoMemory();
        r->carry = grown, r->carry_room = left;
    }
    if (left) memmove(r->carry, at, (size_t)left);
    r->carried = left;
    Py_RETURN_TRUE;
}

static PyObject *reader_finish(PyObject *self, PyObject *Py_UNUSED(unused)) {
    Reader *r = (Reader *)self;
    if (r->bad || !r->over || r->carried) Py_RETURN_NONE;
    int64_t n = r->count;
    r->bad = 1; /* the columns are handed over: no more may be fed */
    if (resize(r->types, n) || resize(r->sizes, n * 8) || resize(r->ends, n * 8) ||
        resize(r->offsets, (n + 1) * 8) || resize(r->names, r->name_bytes) ||
        resize(r->mtimes, r->timed == 1 ? n * 8 : 0))
        return NULL;
    return Py_BuildValue("(OOOOOO)", r->types, r->sizes, r->ends, r->names, r->offsets,
                         r->timed == 1 ? r->mtimes : Py_None);
}

static PyObject *reader_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs)) {
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Reader *r = (Reader *)allocate(type, 0);
    if (!r) return NULL;
    r->timed = -1;
    PyObject **columns[] = {&r->types, &r->sizes, &r->ends, &r->offsets, &r->names, &r->mtimes};
    for (size_t i = 0; i < 6; i++) {
        *columns[i] = PyByteArray_FromStringAndSize(NULL, 0);
        if (!*columns[i]) {
            Py_DECREF(r);
            return NULL;
        }
    }
    return (PyObject *)r;
}

static void reader_dealloc(PyObject *self) {
    Reader *r = (Reader *)self;
    PyTypeObject *type = Py_TYPE(self);
    Py_XDECREF(r->types), Py_XDECREF(r->sizes), Py_XDECREF(r->ends);
    Py_XDECREF(r->offsets), Py_XDECREF(r->names), Py_XDECREF(r->mtimes);
    free(r->open);
    free(r->carry);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

static PyMethodDef reader_methods[] = {
    {"feed", reader_feed, METH_VARARGS, "Parse a block of bytes; False when the text is no canonical tree."},
    {"finish", reader_finish, METH_NOARGS,
     "Return (types, sizes, ends, names, offsets, mtimes or None) as bytearrays, or None for no canonical tree."},
    {NULL, NULL, 0, NULL}};

static PyType_Slot reader_slots[] = {{Py_tp_new, reader_new},
                                     {Py_tp_dealloc, reader_dealloc},
                                     {Py_tp_methods, reader_methods},
                                     {Py_tp_doc, "Reads find.json block by block."},
                                     {0, NULL}};

static PyType_Spec reader_spec = {"lading.tree._treefile.Reader", sizeof(Reader), 0, Py_TPFLAGS_DEFAULT,
                                  reader_slots};

static int module_exec(PyObject *module) {
    PyObject *type = PyType_FromSpec(&reader_spec);
    if (!type) return -1;
    int status = PyModule_AddObjectRef(module, "Reader", type);
    Py_DECREF(type);
    return status;
}

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, (void *)module_exec}, {0, NULL}};

static struct PyModuleDef module_definition = {.m_base = PyModuleDef_HEAD_INIT,
                                               .m_name = "_treefile",
                                               .m_doc = "The compiled reader of find.json.",
                                               .m_size = 0,
                                               .m_slots = module_slots};

PyMODINIT_FUNC PyInit__treefile(void) { return PyModuleDef_Init(&module_definition); }
