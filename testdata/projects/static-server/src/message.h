#define MESSAGE "compiled and static\n"
