// A server as one writes it for einhorn: the listening socket is the descriptor that EINHORN_FDS
// names, and SIGTERM lets what has begun be finished. It must never bind a socket of its own.
package main

import (
	"context"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
)

func main() {
	fd, err := strconv.Atoi(os.Getenv("EINHORN_FDS"))
	if err != nil {
		log.Fatal("no socket was inherited: ", err)
	}
	listener, err := net.FileListener(os.NewFile(uintptr(fd), "listener"))
	if err != nil {
		log.Fatal(err)
	}
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "pid %d\n", os.Getpid())
	})

	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	var server http.Server
	drained := make(chan struct{})
	go func() {
		<-stop
		server.Shutdown(context.Background())
		close(drained)
	}()
	notify("READY=1")
	if err := server.Serve(listener); err != http.ErrServerClosed {
		log.Fatal(err)
	}
	<-drained
}

// notify tells the supervisor, as sd_notify(3) does.
func notify(state string) {
	name := os.Getenv("NOTIFY_SOCKET")
	if name == "" {
		return
	}
	if conn, err := net.Dial("unixgram", name); err == nil {
		conn.Write([]byte(state))
		conn.Close()
	}
}
