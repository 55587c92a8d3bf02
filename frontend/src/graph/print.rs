//! Printing a graph.
