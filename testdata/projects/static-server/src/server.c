/* The smallest useful web server: one thread, one answer. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "message.h"

static int listen_on(int port)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    int yes = 1;
    struct sockaddr_in address = {0};

    address.sin_family = AF_INET;
    address.sin_port = htons((unsigned short)port);
    address.sin_addr.s_addr = htonl(INADDR_ANY);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 16)) {
        perror("server");
        exit(1);
    }
    return fd;
}

int main(int argc, char **argv)
{
    const char *port = getenv("PORT");
    int fd = listen_on(atoi(port ? port : argc > 1 ? argv[1] : "8080"));

    signal(SIGPIPE, SIG_IGN);
    for (;;) {
        char request[1024], answer[256];
        int client = accept(fd, NULL, NULL);
        if (client < 0)
            continue;
        if (read(client, request, sizeof request) > 0) {
            int length = snprintf(answer, sizeof answer,
                                  "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %zu\r\n"
                                  "Connection: close\r\n\r\n%s",
                                  strlen(MESSAGE), MESSAGE);
            if (write(client, answer, (size_t)length) < 0)
                perror("server");
        }
        close(client);
    }
}
