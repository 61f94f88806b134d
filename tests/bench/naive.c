/* The plainest C for the same questions: walk for every access, move-to-front LRU.
 *
 * Nothing is remembered between accesses but page tables and TLB.  It keeps what the engine
 * keeps: 4-level tables with reserved bits, permissions with CR0.WP set and no SMEP or SMAP, EPT
 * with A and D bits, one counter for each kind of reference.  Physical memory is one sparse
 * mapping, so an entry is one load.  The benchmark compiles this; nothing else uses it.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

typedef uint64_t u64;

enum { OK, ABSENT, RESERVED, RIGHTS, EPT_ABSENT, EPT_RESERVED, EPT_RIGHTS };
enum { PRESENT = 1, WRITE = 2, USER = 4, A = 1 << 5, D = 1 << 6, PS = 1 << 7 };
enum { EPT_A = 1 << 8, EPT_D = 1 << 9 };
#define XD (1ull << 63)
#define ADDRESS 0x000ffffffffff000ull

struct masks { u64 table[5], page[5], leaf[5]; }; /* by level */

struct machine {
    u64 *memory;
    u64 size, root, ept_root;
    struct masks guest, ept;
    u64 guest_refs[5], ept_refs[5][5]; /* the second: by guest level (0: the page), EPT level */
};

u64 *reserve(u64 bytes)
{
    void *at = mmap(0, bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return at == MAP_FAILED ? 0 : at;
}

void release(u64 *memory, u64 bytes) { munmap(memory, bytes); }

static inline int through_ept(struct machine *m, int from, u64 gpa, u64 wants, u64 *hpa)
{
    u64 *path[5], base = m->ept_root, rights = 7, entry = 0;
    int used = 0, level, shift = 39;
    for (level = 4; level; level--, shift -= 9) {
        u64 *slot = &m->memory[(base >> 3) + (gpa >> shift & 511)];
        entry = *slot;
        m->ept_refs[from][level]++;
        if (!(entry & 7))
            return EPT_ABSENT;
        int leaf = level == 1 || (entry & m->ept.leaf[level]);
        if (entry & (leaf ? m->ept.page[level] : m->ept.table[level]))
            return EPT_RESERVED;
        path[used++] = slot;
        rights &= entry;
        base = entry & ADDRESS;
        if (leaf)
            break;
    }
    if (wants & ~rights)
        return EPT_RIGHTS;
    for (int i = 0; i < used; i++)
        if (!(*path[i] & EPT_A))
            *path[i] |= EPT_A;
    if ((wants & WRITE) && !(entry & EPT_D))
        *path[used - 1] |= EPT_D;
    u64 inside = (1ull << shift) - 1;
    *hpa = (base & ~inside) | (gpa & inside);
    return OK;
}

static inline int allowed(u64 rights, u64 nx, int kind, int user)
{
    if (user && !(rights & USER))
        return 0;
    if (kind == 4)
        return !(nx & XD);
    return kind == 1 || (rights & WRITE);
}

static inline int one(struct machine *m, int nested, u64 gva, int kind, int user, u64 *hpa)
{
    u64 *path[5], base = m->root, rights = 7, nx = 0, entry = 0, home;
    int used = 0, level, shift = 39, why;
    for (level = 4; level; level--, shift -= 9) {
        u64 at = base + (gva >> shift & 511) * 8;
        if (nested) {
            if ((why = through_ept(m, level, at, 3, &home)))
                return why;
            at = home;
        }
        u64 *slot = &m->memory[at >> 3];
        entry = *slot;
        m->guest_refs[level]++;
        if (!(entry & PRESENT))
            return ABSENT;
        int leaf = level == 1 || (entry & m->guest.leaf[level]);
        if (entry & (leaf ? m->guest.page[level] : m->guest.table[level]))
            return RESERVED;
        path[used++] = slot;
        rights &= entry;
        nx |= entry;
        base = entry & ADDRESS;
        if (leaf)
            break;
    }
    if (!allowed(rights, nx, kind, user))
        return RIGHTS;
    for (int i = 0; i < used; i++)
        if (!(*path[i] & A))
            *path[i] |= A;
    if (kind == 2 && !(entry & D))
        *path[used - 1] |= D;
    u64 inside = (1ull << shift) - 1, gpa = (base & ~inside) | (gva & inside);
    if (nested)
        return through_ept(m, 0, gpa, kind, hpa);
    *hpa = gpa;
    return OK;
}

void walk(struct machine *m, int nested, u64 count, const u64 *gva, const uint8_t *kind,
          const uint8_t *user, int64_t *hpa, uint8_t *status)
{
    if (nested)
        for (u64 i = 0; i < count; i++) {
            u64 to = -1;
            status[i] = one(m, 1, gva[i], kind[i], user[i], &to);
            hpa[i] = to;
        }
    else
        for (u64 i = 0; i < count; i++) {
            u64 to = -1;
            status[i] = one(m, 0, gva[i], kind[i], user[i], &to);
            hpa[i] = to;
        }
}

/* Sets of tags, most recent first. */
struct array { u64 sets, ways, *tags; };

static inline int touch(struct array *a, u64 page)
{
    u64 *set = a->tags + (page & (a->sets - 1)) * a->ways, held = page + 1;
    for (u64 way = 0; way < a->ways; way++)
        if (set[way] == held) {
            for (; way; way--)
                set[way] = set[way - 1];
            set[0] = held;
            return 1;
        }
    for (u64 way = a->ways - 1; way; way--)
        set[way] = set[way - 1];
    set[0] = held;
    return 0;
}

void lookups(struct array *first, struct array *second, u64 count, const u64 *gva, uint8_t *where)
{
    for (u64 i = 0; i < count; i++) {
        u64 page = gva[i] >> 12;
        where[i] = touch(first, page) ? 1 : touch(second, page) ? 2 : 0;
    }
}

void both(struct machine *m, struct array *first, struct array *second, u64 count, const u64 *gva,
          const uint8_t *kind, const uint8_t *user, int64_t *hpa, uint8_t *where)
{
    for (u64 i = 0; i < count; i++) {
        u64 page = gva[i] >> 12, to = -1;
        where[i] = touch(first, page) ? 1 : touch(second, page) ? 2 : 0;
        if (!where[i])
            one(m, 1, gva[i], kind[i], user[i], &to);
        hpa[i] = to;
    }
}
