//! The sandbox's helper as a program of its own, for this crate's tests and measurements.

fn main() {
    kiln_runtime::init::main()
}
