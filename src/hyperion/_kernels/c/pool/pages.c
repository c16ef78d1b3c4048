#include "pages.h"

#if defined(_WIN32)
#ifndef WIN32_LEAN_AND_MEAN
#define WIN32_LEAN_AND_MEAN
#endif
#include <windows.h>

size_t hyp_page_size(void)
{
    SYSTEM_INFO info;
    GetSystemInfo(&info);
    return info.dwPageSize;
}

/* Large pages need a privilege that processes do not have; the address is aligned to 64 KiB anyway. */
static uint8_t *map(size_t mapped, int huge)
{
    (void)huge;
    return VirtualAlloc(NULL, mapped, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);
}

static uint8_t *reserve(size_t mapped, int huge)
{
    (void)huge;
    return VirtualAlloc(NULL, mapped, MEM_RESERVE, PAGE_NOACCESS);
}

static int commit(uint8_t *data, size_t bytes)
{
    return VirtualAlloc(data, bytes, MEM_COMMIT, PAGE_READWRITE) != NULL;
}

static int decommit(uint8_t *data, size_t bytes)
{
    return VirtualFree(data, bytes, MEM_DECOMMIT);
}

static void unmap(uint8_t *data, size_t mapped)
{
    (void)mapped;
    VirtualFree(data, 0, MEM_RELEASE);
}

static int discard(uint8_t *data, size_t bytes)
{
    return VirtualFree(data, bytes, MEM_DECOMMIT) && VirtualAlloc(data, bytes, MEM_COMMIT, PAGE_READWRITE);
}
#else
#include <sys/mman.h>
#include <unistd.h>

#if !defined(MAP_ANONYMOUS)
#define MAP_ANONYMOUS MAP_ANON
#endif

size_t hyp_page_size(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

#if !defined(MAP_NORESERVE)
#define MAP_NORESERVE 0
#endif

/* Pages to use, or address space that counts nowhere (not even where the system refuses to overcommit). */
static uint8_t *anonymous(size_t bytes, int usable)
{
    const int protection = usable ? PROT_READ | PROT_WRITE : PROT_NONE;
    void *p = mmap(NULL, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | (usable ? 0 : MAP_NORESERVE), -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

static uint8_t *place(size_t mapped, int huge, int usable)
{
    uint8_t *data;
    if (!huge || mapped < HYP_HUGE_PAGE) {
        data = anonymous(mapped, usable);
#if defined(MADV_NOHUGEPAGE)
        if (data && !huge) madvise(data, mapped, MADV_NOHUGEPAGE);
#endif
        return data;
    }
    if (mapped > SIZE_MAX - HYP_HUGE_PAGE) return NULL;
    uint8_t *const start = anonymous(mapped + HYP_HUGE_PAGE, usable);
    if (!start) return anonymous(mapped, usable); /* the address space is nearly full: alignment is only a wish */
    const size_t head = (size_t)(-(uintptr_t)start & (HYP_HUGE_PAGE - 1));
    data = start + head;
    if (head) munmap(start, head);
    if (head < HYP_HUGE_PAGE) munmap(data + mapped, HYP_HUGE_PAGE - head);
#if defined(MADV_HUGEPAGE)
    madvise(data, mapped / HYP_HUGE_PAGE * HYP_HUGE_PAGE, MADV_HUGEPAGE);
#endif
    return data;
}

static uint8_t *map(size_t mapped, int huge)
{
    return place(mapped, huge, 1);
}

static uint8_t *reserve(size_t mapped, int huge)
{
    return place(mapped, huge, 0);
}

static int commit(uint8_t *data, size_t bytes)
{
    return !mprotect(data, bytes, PROT_READ | PROT_WRITE);
}

static void unmap(uint8_t *data, size_t mapped)
{
    munmap(data, mapped);
}

static int discard(uint8_t *data, size_t bytes)
{
#if defined(__linux__)
    return !madvise(data, bytes, MADV_DONTNEED);
#else /* elsewhere MADV_DONTNEED neither frees nor zeroes at once: map fresh pages over the old ones */
    return mmap(data, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED;
#endif
}

static int decommit(uint8_t *data, size_t bytes)
{
    return discard(data, bytes);
}
#endif

size_t hyp_pages_rounded(size_t bytes)
{
    const size_t page = hyp_page_size();
    if (bytes > SIZE_MAX - page) return 0;
    return bytes ? (bytes + page - 1) / page * page : page;
}

int hyp_pages_map(hyp_pages *p, size_t bytes, int huge)
{
    const size_t mapped = hyp_pages_rounded(bytes);
    p->data = mapped ? map(mapped, huge) : NULL;
    p->bytes = p->data ? bytes : 0;
    p->mapped = p->data ? mapped : 0;
    return p->data ? HYP_OK : HYP_ERROR_MEMORY;
}

void hyp_pages_unmap(hyp_pages *p)
{
    if (p->data) unmap(p->data, p->mapped);
    p->data = NULL;
    p->bytes = p->mapped = 0;
}

int hyp_pages_discard(hyp_pages *p, size_t offset, size_t bytes)
{
    const size_t page = hyp_page_size();
    if (offset > p->bytes || bytes > p->bytes - offset) return HYP_ERROR_ARGUMENT;
    const size_t first = (offset + page - 1) / page * page;
    /* the rest of the last page is nobody's, so the buffer's end counts as a page's end */
    const size_t end = offset + bytes == p->bytes ? p->mapped : (offset + bytes) / page * page;
    if (first >= end) return HYP_OK;
    return discard(p->data + first, end - first) ? HYP_OK : HYP_ERROR_MEMORY;
}

int hyp_region_reserve(hyp_pages *p, size_t bytes, int huge)
{
    const size_t mapped = hyp_pages_rounded(bytes);
    p->data = mapped ? reserve(mapped, huge) : NULL;
    p->bytes = p->mapped = p->data ? mapped : 0;
    return p->data ? HYP_OK : HYP_ERROR_MEMORY;
}

int hyp_region_commit(const hyp_pages *p, size_t offset, size_t bytes)
{
    if (offset > p->mapped || bytes > p->mapped - offset) return HYP_ERROR_ARGUMENT;
    return !bytes || commit(p->data + offset, bytes) ? HYP_OK : HYP_ERROR_MEMORY;
}

int hyp_region_decommit(const hyp_pages *p, size_t offset, size_t bytes)
{
    if (offset > p->mapped || bytes > p->mapped - offset) return HYP_ERROR_ARGUMENT;
    return !bytes || decommit(p->data + offset, bytes) ? HYP_OK : HYP_ERROR_MEMORY;
}
