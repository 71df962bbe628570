"""Objects made live: what is loaded, what holds what, and what is refused."""

import os
import re
import struct

import pytest

import shmbpf
from shmbpf.elf import load_object
from shmbpf.engine.loaded import load_spec
from shmbpf.engine.program import Program
from shmbpf.errors import LoadError, MapError, ObjectError, ShmbpfError
from shmbpf.maps.map import Map
from tests.support.compile import compile_bpf
from tests.support.paths import ROOT, example_object

API = (ROOT / "tests" / "support" / "bpf_api.h").read_text()


def load(namespace, source, **keywords):
    namespace.fix_cpus(2)
    return load_spec(namespace, load_object(compile_bpf(API + source)), **keywords)


def test_weak_function_that_nothing_defines_faults_only_when_it_is_called():
    source = API + """
    extern int absent(int) __attribute__((weak));
    SEC("xdp") int guarded(struct xdp_md *ctx) { return ctx->data_end - ctx->data < 20 ? absent(1) : XDP_PASS; }
    """
    with shmbpf.Runtime(cpus=1) as rt:
        program = rt.load(compile_bpf(source)).programs["guarded"]
        assert program.run(bytes(64)).retval == shmbpf.XdpAction.PASS
        result = program.run(bytes(15))
        assert result.retval == shmbpf.XdpAction.ABORTED and "weak function" in result.fault


def test_failed_load_leaves_nothing(namespace):
    with pytest.raises(LoadError, match="unknown helper|4242"):
        load(namespace, """
        struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 8); __uint(key_size, 4); __uint(value_size, 4); } some SEC(".maps");
        static long (*nothing)(void *) = (void *)4242;
        SEC("xdp") int bad(struct xdp_md *ctx) { return nothing(&some); }
        """)
    namespace.collect()
    assert namespace.segments() == []


def test_program_keeps_its_maps_alive(namespace):
    with load(namespace, """
    struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1); __uint(key_size, 4); __uint(value_size, 8); } kept SEC(".maps");
    SEC("xdp") int user(struct xdp_md *ctx) { int key = 0; return bpf_map_lookup_elem(&kept, &key) ? XDP_PASS : XDP_DROP; }
    """) as loaded:
        number = loaded.maps["kept"].id
        loaded.maps["kept"].close()
        assert namespace.ids("map") == [number]
        with Map.open(namespace, number) as again:
            assert again.name == "kept"
        loaded.programs["user"].close()
        assert namespace.ids("map") == []


def test_program_array_keeps_its_programs_until_a_cycle_is_all_that_is_left(namespace):
    namespace.fix_cpus(2)
    loaded = load_spec(namespace, load_object(example_object("tc_tailcall")))
    jump = loaded.maps["jump"]
    targets = {struct.unpack("<I", value)[0] for _, value in jump.items()}
    for program in loaded.programs.values():
        program.close()
    assert targets <= set(namespace.ids("prog"))
    loaded.close()
    assert namespace.ids("prog") == [] and namespace.ids("map") == []


def test_emptied_slot_lets_its_program_go(namespace):
    namespace.fix_cpus(2)
    with load_spec(namespace, load_object(example_object("tc_tailcall"))) as loaded:
        jump = loaded.maps["jump"]
        slot, value = next(iter(jump.items()))
        number = struct.unpack("<I", value)[0]
        next(program for program in loaded.programs.values() if program.id == number).close()
        assert number in namespace.ids("prog")
        jump.delete(slot)
        assert number not in namespace.ids("prog")


def test_program_array_takes_programs_of_one_type_only(namespace):
    namespace.fix_cpus(2)
    with load_spec(namespace, load_object(example_object("tc_tailcall"))) as tc, load_spec(namespace, load_object(example_object("xdp_counter"))) as xdp:
        with pytest.raises(MapError) as refused:
            tc.maps["jump"].update(struct.pack("<I", 0), struct.pack("<I", xdp.programs["xdp_counter"].id))
        assert refused.value.errno == 22
        with pytest.raises(MapError) as missing:
            tc.maps["jump"].update(struct.pack("<I", 0), struct.pack("<I", 4711))
        assert missing.value.errno == 9


def test_rodata_is_frozen_and_data_is_filled(namespace):
    with load(namespace, """
    const volatile int fixed = 7; int counted = 40; int zero;
    SEC("xdp") int globals(struct xdp_md *ctx) { counted += fixed; zero++; return XDP_PASS; }
    """) as loaded:
        data = {name.rsplit(".", 1)[1]: map_ for name, map_ in loaded.maps.items()}
        assert data["rodata"].is_frozen and data["rodata"].lookup(bytes(4)) == struct.pack("<i", 7)
        assert data["data"].lookup(bytes(4)) == struct.pack("<i", 40) and data["bss"].lookup(bytes(4)) == bytes(4)
        with pytest.raises(MapError, match="frozen"):
            data["rodata"].update(bytes(4), bytes(4))


def test_program_that_is_not_there_is_named_with_the_choices(namespace):
    with pytest.raises(ObjectError, match="'nope'.*one.*two"):
        load(namespace, 'SEC("xdp") int one(struct xdp_md *c) { return 2; } SEC("xdp") int two(struct xdp_md *c) { return 2; }', only=["nope"])


def test_program_of_unsupported_type_is_left_out_with_a_warning(namespace):
    with load(namespace, 'SEC("xdp") int one(struct xdp_md *c) { return 2; } SEC("kprobe/x") int two(void *c) { return 0; }') as loaded:
        assert list(loaded.programs) == ["one"]
        assert any("two" in warning and "kprobe" in warning for warning in loaded.warnings)


def test_gpl_helper_needs_a_gpl_license(namespace):
    source = 'SEC("xdp") int printing(struct xdp_md *c) { bpf_trace_printk("x", 2); return 2; } char _license[] SEC("license") = "Proprietary";'
    with pytest.raises(LoadError, match="(?i)gpl"):
        load(namespace, source)


@pytest.mark.kernel
def test_tag_is_the_kernels(kernel, namespace):
    spec = load_object(example_object("xdp_counter"))
    namespace.fix_cpus(2)
    with load_spec(namespace, spec) as loaded, kernel.load_object(spec, "xdp_counter") as theirs:
        text = open(f"/proc/self/fdinfo/{theirs.fd}").read()
        assert loaded.programs["xdp_counter"].tag == re.search(r"prog_tag:\s*(\w+)", text).group(1)


def test_program_can_be_opened_by_id_with_its_lines(namespace):
    namespace.fix_cpus(2)
    with load_spec(namespace, load_object(example_object("xdp_counter"))) as loaded:
        with Program.open(namespace, loaded.programs["xdp_counter"].id) as program:
            assert program.name == "xdp_counter" and program.map_ids == sorted(map_.id for map_ in loaded.maps.values())
            file, line, _ = program.source_line(3)
            assert os.path.basename(file) == "prog.bpf.c" and line > 10


TYPED = """
struct pair { int a; long long b; };
typedef unsigned int number;
enum color { RED, GREEN };
struct { __uint(type, BPF_MAP_TYPE_PROG_ARRAY); __uint(max_entries, 4); __uint(key_size, 4); __uint(value_size, 4); } jmp SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 4); __type(key, __u32); __type(value, __u64); } hits SEC(".maps");
int counter;
static __attribute__((noinline)) int sum(struct pair *p, const char *s, number n, enum color c, unsigned char list[4]) {
    volatile int x = p->a + s[0] + n + c + list[1];
    return x;
}
__attribute__((noinline)) int nothing(void) { volatile int x = counter; return x; }
SEC("xdp") int jumping(struct xdp_md *ctx) {
    struct pair p = { (int)(ctx->data_end - ctx->data), 2 };
    char text[4] = {1, 2, 3, 4};
    unsigned char list[4] = {1, 2, 3, 4};
    __u32 key = 1;
    counter++;
    bpf_map_lookup_elem(&hits, &key);
    bpf_tail_call(ctx, &jmp, 1);
    return sum(&p, text, 3, GREEN, list) + nothing();
}
SEC("xdp") int tail1(struct xdp_md *ctx) { return XDP_TX; }
SEC("tc") int other(struct __sk_buff *skb) { counter++; return skb->wire_len; }
char _license[] SEC("license") = "GPL";
"""


def test_a_program_array_belongs_to_the_type_that_uses_it(namespace):
    with load(namespace, TYPED) as loaded:
        jmp, other = loaded.maps["jmp"], loaded.programs["other"]
        assert jmp.handle.ctl.owner_prog_type == shmbpf.ProgType.XDP + 1
        with pytest.raises(MapError) as refused:
            jmp.update(bytes(4), struct.pack("<I", other.id))
        assert refused.value.errno == 22


def test_a_program_of_another_type_that_uses_the_array_is_refused(namespace):
    with pytest.raises(LoadError, match="'jmp', which belongs to programs of another type"):
        load(namespace, TYPED + """
        SEC("tc") int jumping_too(struct __sk_buff *skb) { bpf_tail_call(skb, &jmp, 0); return 0; }
        """)


def test_everything_of_an_object_has_its_btf_id(namespace):
    with load(namespace, TYPED) as one, load(namespace, TYPED) as two:
        ids = []
        for loaded in (one, two):
            found = {map_.btf_id for map_ in loaded.maps.values() if map_.type != shmbpf.MapType.PROG_ARRAY}
            found |= {program.image.ctl.btf_id for program in loaded.programs.values()}
            assert len(found) == 1 and 0 not in found
            ids += found
        assert len(set(ids)) == 2
        assert one.maps["jmp"].btf_id == 0


def test_prototypes_are_kept_as_c(namespace):
    with load(namespace, TYPED) as loaded:
        program = loaded.programs["jumping"]
        protos = [program.string(program.image.funcs[at].proto) for at in range(program.image.func_cnt)]
    assert protos[0] == "int jumping(struct xdp_md * ctx)"
    assert sorted(protos[1:]) == ["int nothing()", "int sum(struct pair * p, const char * s, number n, enum color c, unsigned char * list)"]


@pytest.mark.kernel
def test_a_context_nobody_asked_for_decides_what_a_program_sees(kernel):
    """skb->wire_len is filled in by the context of the caller, in Linux."""
    spec = load_object(compile_bpf(API + TYPED))
    with shmbpf.Runtime(cpus=1) as rt, kernel.load_object(spec, "other") as linux:
        ours = rt.load(compile_bpf(API + TYPED)).programs["other"]
        for ctx in (None, bytes(192)):
            assert ours.run(bytes(64), ctx=ctx).retval == linux.run(bytes(64), ctx=ctx or b"").retval == (64 if ctx else 0)
        with pytest.raises(MapError) as refused:
            ours.run(bytes(64), ctx=b"")
        assert refused.value.errno == 22


def test_programs_are_stored_as_they_are():
    with shmbpf.Runtime(cpus=1) as rt, shmbpf.Runtime(cpus=1) as another:
        obj, foreign = rt.load(compile_bpf(API + TYPED)), another.load(compile_bpf(API + TYPED))
        jmp, tail = obj.maps["jmp"], obj.programs["tail1"]
        jmp[1] = tail
        assert jmp[1] == tail.id and obj.programs["jumping"].run(bytes(64)).retval == shmbpf.XdpAction.TX
        jmp[2] = tail.program
        jmp[3] = tail.id
        assert set(dict(jmp.items()).values()) == {tail.id}
        with pytest.raises(ShmbpfError, match="cannot hold"):
            jmp[0] = foreign.programs["tail1"]


def test_data_sections_are_indexed_by_number():
    with shmbpf.Runtime(cpus=1) as rt:
        obj = rt.load(compile_bpf(API + TYPED))
        name = next(name for name in obj.maps if name.endswith(".bss"))
        obj.programs["tail1"].run(bytes(64))
        obj.programs["jumping"].run(bytes(64))
        assert obj.maps[name][0] == {"counter": 1} and obj.maps[name][bytes(4)] == {"counter": 1}
        assert list(obj.maps[name]) == [0]


@pytest.mark.parametrize("numbers", [{"repeat": -3}, {"repeat": 1 << 32}, {"cpu": -1}, {"cpu": 7}], ids=str)
def test_numbers_that_cannot_be_are_refused_with_their_limits(numbers):
    with shmbpf.Runtime(cpus=4) as rt:
        program = rt.load(example_object("xdp_counter")).programs["xdp_counter"]
        with pytest.raises(ShmbpfError, match="CPUs 0 to 3" if "cpu" in numbers else "expected 0 to"):
            program.run(bytes(64), **numbers)


def test_programs_that_were_not_chosen_come_along_if_they_can(namespace):
    source = TYPED + """
    static long (*missing)(void) = (void *)4242;
    SEC("xdp") int broken(struct xdp_md *ctx) { return missing(); }
    SEC("?xdp") int optional(struct xdp_md *ctx) { return XDP_PASS; }
    SEC("kprobe/x") int elsewhere(void *ctx) { return 0; }
    """
    with load(namespace, source, only=["jumping"], with_others=True) as loaded:
        assert list(loaded.programs) == ["jumping", "tail1", "other"]
        assert len(loaded.left_out) == 1 and "'broken'" in loaded.left_out[0] and "4242" in loaded.left_out[0]
    with load(namespace, source, only=["jumping"]) as loaded:
        assert list(loaded.programs) == ["jumping"]
