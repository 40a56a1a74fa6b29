// Tensor copies, bulk copies and bulk additions, and the two views of shared memory.

#include "hopper_machine.hpp"

namespace emulator {

namespace {

constexpr u32 CHUNK_BYTES = 16;

u32 row_bytes(const TensorMap& map) { return map.box[0] * map.element_bytes; }

u32 rows(const TensorMap& map) { return map.box[1] * map.box[2] * map.box[3] * map.box[4]; }

// The bytes of a chunk of row `row`, `x` bytes into it: zeros where it lies outside the tensor.
void read_chunk(unsigned char* chunk, const TensorCopy& copy, u32 row, u32 x) {
    const TensorMap& map = copy.map;
    memset(chunk, 0, CHUNK_BYTES);
    i64 offset = 0;
    u32 rest = row;
    for (int dimension = 1; dimension < 5; dimension++) {
        i64 coordinate = i64(copy.corner[dimension]) + rest % map.box[dimension];
        rest /= map.box[dimension];
        if (coordinate < 0 || coordinate >= i64(map.dims[dimension])) return;
        offset += coordinate * i64(map.strides[dimension - 1]);
    }
    for (u32 byte = 0; byte < CHUNK_BYTES; byte += map.element_bytes) {
        i64 coordinate = i64(copy.corner[0]) + (x + byte) / map.element_bytes;
        if (coordinate < 0 || coordinate >= i64(map.dims[0])) continue;
        memcpy(chunk + byte, map.address + offset + coordinate * map.element_bytes, map.element_bytes);
    }
}

void fill(Block& block, u32 at, const void* bytes, u32 count) {
    memcpy(shared_pointer(at), bytes, count);
    memcpy(&hopper_of(block).async_view[at], bytes, count);
}

// Issues a copy: at once, or as two halves of its rows that land in any order. Until then the old contents are gone.
void issue(TensorCopy copy) {
    Block& block = *self().owner;
    Hopper& hopper = hopper_of(block);
    block.statistics->tensor_copies++;
    u32 bytes = rows(copy.map) * row_bytes(copy.map);
    if (!is_shared(copy.to, bytes)) fail("a tensor copy does not fit in shared memory", copy.line);
    if (!find_mbarrier(block, copy.barrier, copy.line)) return;
    copy.first_row = 0;
    copy.last_row = rows(copy.map);
    if (!block.options->copies_are_late) return land(block, copy);
    std::vector<unsigned char> poison(bytes, 0xff);
    fill(block, copy.to, poison.data(), bytes);
    TensorCopy half = copy;
    half.last_row = copy.first_row = copy.last_row / 2;
    if (half.last_row > 0) hopper.copies.push_back(half);
    hopper.copies.push_back(copy);
}

// Ends the calling thread if something was noted.
void fail_if_noted(int line) {
    Block& block = *self().owner;
    if (block.error.empty()) return;
    std::string error;
    std::swap(error, block.error);
    fail(error, line);
}

} // namespace

u32 swizzled(u32 address, u64 swizzle) {
    u32 bits = swizzle == SWIZZLE_128B ? 0x70 : swizzle == SWIZZLE_64B ? 0x30 : swizzle == SWIZZLE_32B ? 0x10 : 0;
    return address ^ (address >> 3 & bits);
}

void land(Block& block, const TensorCopy& copy) {
    u32 width = row_bytes(copy.map);
    for (u32 row = copy.first_row; row < copy.last_row; row++) {
        for (u32 x = 0; x < width; x += CHUNK_BYTES) {
            unsigned char chunk[CHUNK_BYTES];
            read_chunk(chunk, copy, row, x);
            fill(block, swizzled(copy.to + row * width + x, copy.map.swizzle), chunk, CHUNK_BYTES);
        }
    }
    count_bytes(block, copy.barrier, -i64(width) * (copy.last_row - copy.first_row), copy.line);
}

void tensor_load(u32 to, const TensorMap* map, u32 rank, u32 barrier, const i32* corner, int line) {
    self().line = line;
    if (map->rank != rank) fail("tensor_load: the rank is not that of the tensor map", line);
    if (to % 128) fail("tensor_load: the shared address is not a multiple of 128", line);
    u64 last = (map->dims[0] - 1) * map->element_bytes;
    for (int i = 1; i < 5; i++)
        last += (map->dims[i] - 1) * map->strides[i - 1];
    check_access(map->address + last, 1, Access::read, line);
    TensorCopy copy{*map, to, barrier, {}, 0, 0, line};
    for (u32 i = 0; i < 5; i++)
        copy.corner[i] = i < rank ? corner[i] : 0;
    issue(copy);
    fail_if_noted(line);
}

void bulk_load(u32 to, const void* from, u32 bytes, u32 barrier, int line) {
    self().line = line;
    if (to % 16 || bytes % 16 || bytes == 0 || reinterpret_cast<uintptr_t>(from) % 16)
        fail("bulk_load: something is not a multiple of 16", line);
    check_access(from, bytes, Access::read, line);
    // a tensor of one row of chunks
    TensorMap map{static_cast<const unsigned char*>(from),
                  CHUNK_BYTES,
                  1,
                  {bytes / CHUNK_BYTES, 1, 1, 1, 1},
                  {},
                  {bytes / CHUNK_BYTES, 1, 1, 1, 1},
                  0};
    issue(TensorCopy{map, to, barrier, {}, 0, 0, line});
    fail_if_noted(line);
}

// ---- The two views of shared memory ----

void async_fence() {
    Hopper& hopper = hopper_of(*self().owner);
    AsyncThread& me = async_self();
    for (const Store& store : me.unpublished)
        memcpy(&hopper.async_view[store.at], shared_pointer(store.at), store.bytes);
    me.unpublished.clear();
}

bool is_unpublished(Block& block, u32 address, u32 bytes) {
    return memcmp(shared_pointer(address), &hopper_of(block).async_view[address], bytes) != 0;
}

// ---- Bulk additions: read and added when issued, or when waited for ----

namespace {

void add(Block& block, BulkAdd& sum, int line) {
    if (sum.is_done) return;
    sum.is_done = true;
    if (is_unpublished(block, sum.from, sum.bytes) && reports_rules(block)) {
        fail("a bulk addition reads shared memory that its writer has not published by async_fence", line);
    }
    for (u32 i = 0; i < sum.bytes / sizeof(float); i++) {
        float x, y;
        memcpy(&x, &hopper_of(block).async_view[sum.from + i * sizeof(float)], sizeof x);
        memcpy(&y, sum.to + i, sizeof y);
        y += x;
        memcpy(sum.to + i, &y, sizeof y);
    }
}

} // namespace

void bulk_add(float* to, u32 from, u32 bytes, int line) {
    self().line = line;
    if (bytes % 16 || bytes == 0 || from % 16 || reinterpret_cast<uintptr_t>(to) % 16)
        fail("bulk_add_f32: something is not a multiple of 16", line);
    if (!is_shared(from, bytes)) fail("bulk_add_f32: the source is not shared memory", line);
    check_access(to, bytes, Access::atomic, line);
    AsyncThread& me = async_self();
    me.adds.push_back({to, from, bytes, false});
    if (!self().owner->options->copies_are_late) add(*self().owner, me.adds.back(), line);
}

void bulk_commit() { async_self().add_groups.push_back(async_self().adds.size()); }

void bulk_wait(int pending, int line) {
    self().line = line;
    pause(); // so that others may overwrite the source if they do not wait
    AsyncThread& me = async_self();
    while (me.add_groups.size() > size_t(pending)) {
        size_t count = me.add_groups.front();
        for (size_t i = 0; i < count; i++)
            add(*self().owner, me.adds[i], line);
        me.adds.erase(me.adds.begin(), me.adds.begin() + i64(count));
        me.add_groups.erase(me.add_groups.begin());
        for (size_t& end : me.add_groups)
            end -= count;
    }
}

} // namespace emulator
