"""Programs come out of the linker whole: callees behind their callers, every reference pointing where it should."""

from __future__ import annotations

import struct

import pytest
from support.compile import compile_bpf
from support.elf_writer import GLOBAL, LOCAL, NOTYPE, OBJECT, SECTION, ElfWriter, insn, ld_imm64

from shmbpf.elf import load_object
from shmbpf.elf.link import MAX_INSNS
from shmbpf.errors import ObjectError
from shmbpf.spec import MapRef

from .objects import SOURCES, loaded

CALL, LD_IMM64, EXIT = 0x85, 0x18, insn(0x95)
HEADER = '#include "bpf_api.h"\n'


def decode(program):
    """(opcode, dst, src, off, imm) per instruction."""
    return [(code, regs & 15, regs >> 4, off, imm) for code, regs, off, imm in struct.iter_unpack("<BBhi", program.insns)]


def calls(program):
    """Names of the functions that each local call and each callback address leads to, in order."""
    starts = {func.insn: func.name for func in program.funcs}
    return [
        starts[index + imm + 1]
        for index, (code, _, src, _, imm) in enumerate(decode(program))
        if (code, src) in ((CALL, 1), (LD_IMM64, 4))
    ]


def test_callees_follow_in_the_order_they_are_met():
    program = loaded("linking").programs["first"]
    assert [func.name for func in program.funcs] == ["first", "visit", "twice", "add", "each"]
    assert program.funcs[0].insn == 0


def test_every_call_leads_to_the_function_it_names():
    spec = loaded("linking")
    assert calls(spec.programs["first"]) == ["visit", "each", "twice", "add", "twice", "add", "add"]
    assert calls(spec.programs["second"]) == ["local"]


def test_program_carries_only_what_it_reaches():
    spec = loaded("linking")
    assert [func.name for func in spec.programs["third"].funcs] == ["third", "twice", "add"]
    assert {ref.map for ref in spec.programs["second"].map_refs} == {"linking.bss"}


def test_static_function_beside_programs_is_a_subprogram():
    assert set(loaded("linking").programs) == {"first", "second", "third"}


def test_static_map_is_found_through_its_section_symbol():
    refs = loaded("linking").programs["first"].map_refs
    assert [ref.map for ref in refs if ref.value_offset is None] == ["flows", "hidden", "flows"]


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("cpu", ["v1", "v2", "v3", "v4"])
def test_map_references_are_64_bit_loads_marked_for_their_kind(name, cpu):
    for program in loaded(name, cpu=cpu).programs.values():
        insns = decode(program)
        for ref in program.map_refs:
            code, _, src, _, imm = insns[ref.insn]
            assert (code, imm) == (LD_IMM64, 0)
            assert (src, insns[ref.insn + 1][4]) == ((1, 0) if ref.value_offset is None else (2, ref.value_offset))


@pytest.mark.kernel
@pytest.mark.parametrize("name", SOURCES)
def test_linux_accepts_every_linked_program(name, kernel):
    spec = loaded(name)
    for program in spec.programs.values():
        kernel.load_object(spec, program.name).close()


def test_lines_follow_their_functions():
    program = loaded("linking").programs["first"]
    starts = {func.name: func.insn for func in program.funcs}
    assert program.lines.at(starts["add"] + 2).text == "total += x;"
    assert program.lines.at(starts["twice"] + 1).text == "return add(x) + add(x + 1);"
    assert [line.insn for line in program.lines] == sorted(line.insn for line in program.lines)
    assert program.lines[len(program.lines) - 1] == list(program.lines)[-1] == program.lines[-1]


def test_object_without_debug_information_has_no_lines():
    path = compile_bpf(HEADER + 'SEC("xdp") int p(void *c) { return 2; }', debug=False)
    assert len(load_object(path).programs["p"].lines) == 0


def test_recursion_links_one_copy():
    source = HEADER + '__noinline unsigned f(unsigned x) { return x ? f(x / 2) * 3 + 1 : 1; } SEC("xdp") int p(struct xdp_md *c) { return f(c->data); }'
    program = load_object(compile_bpf(source, flags=("-fno-optimize-sibling-calls",))).programs["p"]
    assert [func.name for func in program.funcs] == ["p", "f"]


def test_weak_function_nobody_defines_becomes_a_trap():
    source = HEADER + 'extern int gone(int) __ksym __weak; SEC("xdp") int p(struct xdp_md *c) { return gone ? gone(1) : 2; }'
    insns = decode(load_object(compile_bpf(source)).programs["p"])
    assert (CALL, 0, 2, 0, 0) in insns  # a kfunc call that no kernel resolves


def test_weak_variable_nobody_defines_is_null():
    refs = loaded("data_sections").programs["prog"].map_refs
    assert "maybe" not in {ref.map for ref in refs}


def test_kernel_function_is_refused_by_name():
    source = HEADER + 'extern int bpf_dynptr_slice(int) __ksym; SEC("xdp") int p(void *c) { return bpf_dynptr_slice(1); }'
    with pytest.raises(ObjectError, match=r"section 'xdp': function 'p': instruction \d+: call of 'bpf_dynptr_slice'"):
        load_object(compile_bpf(source))


def test_kernel_variable_is_refused_by_name():
    source = HEADER + 'extern const int runqueues __ksym; SEC("xdp") int p(void *c) { return (long)&runqueues; }'
    with pytest.raises(ObjectError, match="symbol 'runqueues' is not defined"):
        load_object(compile_bpf(source))


def make_caller(target_kind: str) -> ElfWriter:
    elf = ElfWriter()
    elf.code("xdp", insn(CALL, src=1, imm=1 if target_kind == "section" else -1) + EXIT)
    text = elf.code(".text", EXIT + EXIT + EXIT)
    symbol = elf.symbol("", text, kind=SECTION, bind=LOCAL) if target_kind == "section" else elf.symbol("f", text, value=16)
    elf.relocate(1, 0, symbol, 10)
    return elf


@pytest.mark.parametrize(("kind", "distance"), [("section", 3), ("symbol", 1)])
def test_call_through_section_and_function_symbols(kind, distance):
    program = load_object(make_caller(kind).to_bytes()).programs["xdp"]
    assert decode(program)[0] == (CALL, 0, 1, 0, distance)


def test_call_of_data_is_refused():
    elf = ElfWriter()
    elf.code("xdp", insn(CALL, src=1, imm=-1) + EXIT)
    elf.relocate(1, 0, elf.symbol("table", elf.section(".data", bytes(8)), kind=OBJECT), 10)
    with pytest.raises(ObjectError, match="call of 'table' does not lead to code"):
        load_object(elf.to_bytes())


@pytest.mark.parametrize("kind", [2, 3, 4, 99])
def test_relocation_of_a_kind_that_code_does_not_have_is_refused(kind):
    elf = ElfWriter()
    elf.code("xdp", ld_imm64(1) + EXIT)
    elf.relocate(1, 0, elf.symbol("x", elf.section(".data", bytes(8)), kind=OBJECT), kind)
    with pytest.raises(ObjectError, match=f"section 'xdp': relocation at 0x0 \\('x'\\) is of kind {kind}"):
        load_object(elf.to_bytes())


def test_relocation_of_kind_none_changes_nothing():
    elf = ElfWriter()
    elf.code("xdp", ld_imm64(1, 5) + EXIT)
    elf.relocate(1, 0, elf.symbol("x", elf.section(".data", bytes(8)), kind=OBJECT), 0)
    assert load_object(elf.to_bytes()).programs["xdp"].insns == ld_imm64(1, 5) + EXIT


def test_relocation_of_an_instruction_without_64_bit_immediate_is_refused():
    elf = ElfWriter()
    elf.code("xdp", insn(0xB7) + EXIT)
    elf.relocate(1, 0, elf.symbol("x", elf.section(".data", bytes(8)), kind=OBJECT), 1)
    with pytest.raises(ObjectError, match="instruction 0: relocation against 'x' of opcode 0xb7"):
        load_object(elf.to_bytes())


def test_relocation_past_the_data_is_refused():
    elf = ElfWriter()
    elf.code("xdp", ld_imm64(1, 9) + EXIT)
    elf.relocate(1, 0, elf.symbol("x", elf.section(".data", bytes(8)), kind=OBJECT), 1)
    with pytest.raises(ObjectError, match="'x' is at 0x9 of section '.data', where no map and no data lies"):
        load_object(elf.to_bytes())


def test_address_inside_data_keeps_its_offset():
    elf = ElfWriter()
    elf.code("xdp", ld_imm64(1, 3) + EXIT)
    elf.relocate(1, 0, elf.symbol("x", elf.section(".data", bytes(16)), value=4, kind=OBJECT), 1)
    assert load_object(elf.to_bytes(), name="o").programs["xdp"].map_refs == (MapRef(0, "o.data", 7),)


def test_endless_program_is_refused():
    elf = ElfWriter()
    elf.code("xdp", bytes(8) * (MAX_INSNS + 1))
    with pytest.raises(ObjectError, match=f"more than {MAX_INSNS} instructions"):
        load_object(elf.to_bytes())


def test_code_without_function_symbols_is_one_program_named_after_its_section():
    elf = ElfWriter()
    elf.code("classifier")
    elf.code("2/7")
    spec = load_object(elf.to_bytes())
    assert {name: program.tail_slot for name, program in spec.programs.items()} == {"classifier": None, "2/7": (2, 7)}


def test_old_compilers_untyped_symbols_name_programs():
    elf = ElfWriter(machine=0)  # EM_NONE, before BPF had a number
    elf.symbol("handler", elf.code("classifier"), kind=NOTYPE, bind=GLOBAL)
    assert set(load_object(elf.to_bytes()).programs) == {"handler"}


def test_static_functions_alone_in_a_section_are_programs():
    elf = ElfWriter()
    index = elf.code("xdp", insn(CALL, src=1, imm=0) + EXIT + EXIT)
    elf.symbol("entry", index, 0, 8, LOCAL)
    elf.symbol("callee", index, 8, 16, LOCAL)
    assert set(load_object(elf.to_bytes()).programs) == {"entry"}


def test_object_with_nothing_but_text_offers_what_nobody_calls():
    source = HEADER + "__noinline int f(int x) { return x * 3; } int main_prog(struct xdp_md *c) { return f(c->data); }"
    assert set(load_object(compile_bpf(source)).programs) == {"main_prog"}


def test_two_programs_of_one_name_can_both_be_reached():
    elf = ElfWriter()
    elf.symbol("p", elf.code("xdp"), bind=LOCAL)
    elf.symbol("p", elf.code("tc"), bind=LOCAL)
    programs = load_object(elf.to_bytes()).programs
    assert sorted(program.section for program in programs.values()) == ["tc", "xdp"] and "p" in programs
