# An image of kiln itself: `cargo build --release && ./target/release/kiln build -t kiln:dev .`
FROM scratch
COPY target/release/kiln /kiln
COPY LICENSE README.md /
# Shows that the program needs nothing but itself.
RUN ["/kiln", "version"]
ENTRYPOINT ["/kiln"]
