"""Counting the instructions of a disassembled kernel's tile."""

from __future__ import annotations

from collections import Counter

import pytest

from bench.sass import functions, shortest_tile

LOOP = """\
.text._Zforward:
        /*0000*/                   MOV R1, c[0x0][0x28] ;
.L_x_0:
        /*0010*/                   IADD3 R2, R2, 0x1, RZ ;
        /*0020*/              @!P0 BRA `(.L_x_1) ;
        /*0030*/                   LDG.E.EF.128 R4, desc[UR4][R2.64] ;
        /*0040*/                   LDG.E.EF.128 R8, desc[UR4][R2.64+0x1000] ;
        /*0050*/                   LDG.E.EF.128 R12, desc[UR4][R2.64+0x2000] ;
        /*0060*/                   LDG.E.EF.128 R16, desc[UR4][R2.64+0x3000] ;
        /*0070*/                   BRA `(.L_x_2) ;
.L_x_1:
        /*0080*/                   LDG.E.U16 R4, desc[UR4][R2.64] ;
.L_x_2:
        /*0090*/               @P1 BRA `(.L_x_3) ;
        /*00a0*/               @P2 MUFU.EX2 R3, R4 ;
        /*00b0*/                   MUFU.EX2 R5, R8 ;
        /*00c0*/                   FMUL.FTZ R5, R5, R5 ;
        /*00d0*/                   BRA `(.L_x_4) ;
.L_x_3:
        /*00e0*/                   MUFU.EX2 R3, R4 ;
        /*00f0*/                   MUFU.EX2 R5, R8 ;
.L_x_4:
        /*0100*/               @P3 BRA `(.L_x_0) ;
        /*0110*/                   EXIT ;
.text._Zother:
        /*0000*/                   EXIT ;
"""


def test_the_shortest_way_through_a_tile_is_counted() -> None:
    """Fails if the element-wise path, a longer branch or what lies outside the loop is counted.

    By hand: IADD3, BRA, four loads, BRA, then either BRA, two MUFU, FMUL, BRA or BRA, two MUFU,
    and the BRA of the loop: the second is shorter, 11 instructions.
    """
    lines = functions(LOOP)["_Zforward"]
    path = shortest_tile(lines, exponentials=2, stores=0)
    assert path.opcodes == Counter(IADD3=1, BRA=4, LDG=4, MUFU=2)
    assert path.length == 11


def test_a_branch_whose_condition_is_an_operand_may_fall_through() -> None:
    """Fails if such a branch, as sm_100 has them, counts as always taken."""
    listing = LOOP.replace("@!P0 BRA `(.L_x_1)", "     BRA.U UP0, `(.L_x_1)")
    path = shortest_tile(functions(listing)["_Zforward"], exponentials=2, stores=0)
    assert path.length == 11


def test_a_way_with_other_loads_is_an_error() -> None:
    """Fails if a path through the loads of incomplete vectors passes for that of a plain tile."""
    lines = functions(LOOP.replace("FMUL.FTZ R5, R5, R5", "LDG.E R5, desc[UR4][R2.64]"))
    longer = [line for line in lines["_Zforward"] if "@P1 BRA" not in line]
    with pytest.raises(ValueError, match="5 loads, not 4"):
        shortest_tile(longer, exponentials=2, stores=0)


def test_functions_are_kept_apart() -> None:
    """Fails if one function's instructions count for the next."""
    assert functions(LOOP)["_Zother"] == ["EXIT"]


def test_a_loop_of_another_form_is_an_error() -> None:
    """Fails if a kernel that no longer loads, computes or stores whole tiles gets some number."""
    found = functions(LOOP)
    with pytest.raises(ValueError, match="no loop around a 16-byte load"):
        shortest_tile(found["_Zother"], exponentials=2, stores=0)
    with pytest.raises(ValueError, match="4 loads, 4 exponentials, 0 stores"):
        shortest_tile(found["_Zforward"], exponentials=4, stores=0)
    with pytest.raises(ValueError, match="2 exponentials, 4 stores"):
        shortest_tile(found["_Zforward"], exponentials=2, stores=4)
