// PVH: 32-bit, no paging, ebx = hvm_start_info. To 64-bit mode, with the first 4 GiB mapped where they are and the first of them
// once more where the kernel is linked; SSE is on before any Rust.
    .set BASE, 0xffffffff80000000
    .pushsection .note.Xen, "a", @note
    .balign 4
    .long 4, 8, 18                          // XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .quad ringfence_pvh_entry - BASE
    .popsection

    .pushsection .text.entry, "ax", @progbits
    .code32
    .globl ringfence_pvh_entry
ringfence_pvh_entry:
    cli
    cld
    mov %ebx, %esi
    movl $(ringfence_tables + 0x1003 - BASE), (ringfence_tables - BASE)
    movl $(ringfence_tables + 0x2003 - BASE), (ringfence_tables + 511 * 8 - BASE)
    movl $(ringfence_tables + 0x3003 - BASE), (ringfence_tables + 0x1000 - BASE)
    movl $(ringfence_tables + 0x4003 - BASE), (ringfence_tables + 0x1008 - BASE)
    movl $(ringfence_tables + 0x5003 - BASE), (ringfence_tables + 0x1010 - BASE)
    movl $(ringfence_tables + 0x6003 - BASE), (ringfence_tables + 0x1018 - BASE)
    movl $(ringfence_tables + 0x3003 - BASE), (ringfence_tables + 0x2000 + 510 * 8 - BASE)
    mov $(ringfence_tables + 0x3000 - BASE), %edi
    mov $0x83, %eax                         // present, writable, 2 MiB
    mov $2048, %ecx
.Lmap:
    mov %eax, (%edi)
    add $8, %edi
    add $0x200000, %eax
    dec %ecx
    jnz .Lmap
    mov %cr4, %eax
    or $0x620, %eax                         // PAE, OSFXSR, OSXMMEXCPT
    mov %eax, %cr4
    mov $(ringfence_tables - BASE), %eax
    mov %eax, %cr3
    mov $0xc0000080, %ecx                   // EFER
    rdmsr
    or $0x100, %eax                         // LME
    wrmsr
    mov %cr0, %eax
    and $0xfffffffb, %eax                   // not EM
    or $0x80000003, %eax                    // PG, MP, PE
    mov %eax, %cr0
    lgdt (ringfence_gdt_pointer - BASE)
    ljmp $8, $(.Llong - BASE)
    .code64
.Llong:
    movabs $.Lhigh, %rax
    jmp *%rax
.Lhigh:
    mov $16, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    lea ringfence_stack_top(%rip), %rsp
    mov %esi, %edi
    xor %ebp, %ebp
    call {start_pvh}
    ud2

    .balign 8
ringfence_gdt:
    .quad 0, 0x00af9a000000ffff, 0x00cf92000000ffff
ringfence_gdt_pointer:
    .word 23
    .long ringfence_gdt - BASE
    .popsection

    .pushsection .bss.tables, "aw", @nobits
    .balign 4096
ringfence_tables:
    .skip 7 * 4096
    .popsection
