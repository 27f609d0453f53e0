// What a libc would bring: the memory functions that the compiler calls, as in C.
    .pushsection .text.memory, "ax", @progbits
    .globl memcpy
memcpy:
    mov rax, rdi
    mov rcx, rdx
    shr rcx, 3
    rep movsq
    mov ecx, edx
    and ecx, 7
    rep movsb
    ret

    .globl memmove
memmove:
    mov rax, rdi
    mov rcx, rdi
    sub rcx, rsi
    cmp rcx, rdx
    jae memcpy                  // not behind the start of the source, or past its end
    std
    lea rdi, [rdi + rdx - 1]
    lea rsi, [rsi + rdx - 1]
    mov rcx, rdx
    rep movsb
    cld
    ret

    .globl memset
memset:
    mov r8, rdi
    movzx eax, sil
    mov r9, 0x0101010101010101
    imul rax, r9
    mov rcx, rdx
    shr rcx, 3
    rep stosq
    mov ecx, edx
    and ecx, 7
    rep stosb
    mov rax, r8
    ret

    .globl memcmp
    .globl bcmp
memcmp:
bcmp:
    mov rcx, rdx
    cmp eax, eax                // equal, where there is nothing to compare
    repe cmpsb
    je .Lsame
    movzx eax, byte ptr [rdi - 1]
    movzx edx, byte ptr [rsi - 1]
    sub edx, eax
    mov eax, edx
    ret
.Lsame:
    xor eax, eax
    ret

    .globl strlen
strlen:
    xor eax, eax
.Lnext:
    cmp byte ptr [rdi + rax], 0
    je .Lend
    inc rax
    jmp .Lnext
.Lend:
    ret

// `core` and `alloc` are built to unwind and name these; with `panic = "abort"` nobody calls them.
    .globl rust_eh_personality
    .globl _Unwind_Resume
rust_eh_personality:
_Unwind_Resume:
    ud2
    .popsection
