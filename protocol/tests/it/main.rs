//! Tests of the protocol from outside: one attack per vector, and every single bit.

mod admission_codes;
mod every_bit;
mod vectors;
mod world;
