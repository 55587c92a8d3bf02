//! Tests of the frontend from outside: recorded results of BuildKit, properties, a second parser.

mod expansion_vectors;
mod ignore_vectors;
mod linear_time;
mod mount_vectors;
mod parser_vectors;
mod second_parser;
mod syntax_properties;
mod value_vectors;
mod vectors;
