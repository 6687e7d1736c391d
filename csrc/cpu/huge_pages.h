// Huge pages for large memory: walking megabytes of weights a small page at a time misses the address caches, and
// touching fresh small pages can take longer than the convolution that fills them.
#pragma once

#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace convfirst {

constexpr int64_t kHugePageBytes = int64_t{2} << 20;

// Asks for huge pages where [data, data + bytes) covers whole ones. Memory that was touched before is not changed.
inline void advise_huge_pages(void* data, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  const auto address = reinterpret_cast<uintptr_t>(data), page = static_cast<uintptr_t>(kHugePageBytes);
  const uintptr_t start = (address + page - 1) / page * page,
                  end = (address + static_cast<uintptr_t>(bytes)) / page * page;
  if (start < end) madvise(reinterpret_cast<void*>(start), end - start, MADV_HUGEPAGE);
#else
  (void)data, (void)bytes;
#endif
}

}  // namespace convfirst
