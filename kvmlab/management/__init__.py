"""Who manages hosts: libvirt's domain API, virsh, nova's overcommit, balloon managers."""
