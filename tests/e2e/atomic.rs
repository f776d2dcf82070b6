//! One path, read without pause while versions change: always one whole version, never none.
