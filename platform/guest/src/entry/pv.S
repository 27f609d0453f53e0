// 64-bit PV: Xen starts us in 64-bit mode on the builder's page tables, with rsi = start_info and rsp = the end of what it built.
    .pushsection .note.Xen, "a", @note
    .balign 4
    .long 4, .Lguest_os_end - .Lguest_os, 6         // XEN_ELFNOTE_GUEST_OS
    .asciz "Xen"
.Lguest_os:
    .asciz "ringfence"
.Lguest_os_end:
    .balign 4
    .long 4, 8, 5                                   // XEN_ELFNOTE_XEN_VERSION
    .asciz "Xen"
    .asciz "xen-3.0"
    .long 4, 8, 8                                   // XEN_ELFNOTE_LOADER
    .asciz "Xen"
    .asciz "generic"
    .long 4, 8, 3                                   // XEN_ELFNOTE_VIRT_BASE
    .asciz "Xen"
    .quad 0xffffffff80000000
    .long 4, 8, 4                                   // XEN_ELFNOTE_PADDR_OFFSET
    .asciz "Xen"
    .quad 0
    .long 4, 8, 1                                   // XEN_ELFNOTE_ENTRY
    .asciz "Xen"
    .quad ringfence_pv_entry
    .long 4, .Lfeatures_end - .Lfeatures, 10        // XEN_ELFNOTE_FEATURES
    .asciz "Xen"
.Lfeatures:
    .asciz "!writable_page_tables|pae_pgdir_above_4gb"
.Lfeatures_end:
    .balign 4
    .long 4, 4, 9                                   // XEN_ELFNOTE_PAE_MODE
    .asciz "Xen"
    .asciz "yes"
    .popsection

    .pushsection .text.entry, "ax", @progbits
    .globl ringfence_pv_entry
ringfence_pv_entry:
    cld
    mov rdi, rsi
    mov rsi, rsp
    lea rsp, [rip + ringfence_stack_top]
    xor ebp, ebp
    call {start_pv}
    ud2
    .popsection

    .pushsection .bss.stack, "aw", @nobits
    .balign 4096
    .globl ringfence_stack_guard
ringfence_stack_guard:
    .skip 4096
    .skip 262144
    .globl ringfence_stack_top
ringfence_stack_top:
    .popsection
