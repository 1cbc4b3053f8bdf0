"""The lab under faults that are real: processes killed, disks filled, files cut, machines that fall silent."""
