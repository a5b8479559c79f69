// Command cripull speaks to a container runtime as a kubelet does: it pulls,
// removes and lists images over CRI.
//
//	cripull -endpoint unix:///run/containerd/containerd.sock pull registry.test/app:v1
//	cripull -endpoint ... remove registry.test/app:v1
//	cripull -endpoint ... status
//
// pull prints the reference that the runtime gives back. Credentials come from
// the environment, CRIPULL_USER and CRIPULL_PASSWORD, as a kubelet takes them
// from an imagePullSecret: nothing but user name and password.
//
// It is a module of its own, so that the types of CRI are no dependency of the
// product. `make runtimes` builds it into bin/.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func main() {
	endpoint := flag.String("endpoint", "unix:///run/containerd/containerd.sock", "socket of the runtime")
	timeout := flag.Duration("timeout", 5*time.Minute, "for all of it")
	flag.Parse()
	ctx, cancel := context.WithTimeout(context.Background(), *timeout)
	defer cancel()
	if err := run(ctx, *endpoint, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "cripull:", err)
		os.Exit(1)
	}
}

var errUsage = errors.New("usage: cripull [-endpoint SOCKET] [-timeout TIME] pull IMAGE | remove IMAGE | status")

func run(ctx context.Context, endpoint string, args []string) error {
	conn, err := grpc.NewClient(endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return fmt.Errorf("dial %s: %w", endpoint, err)
	}
	defer conn.Close()
	images := runtime.NewImageServiceClient(conn)
	switch {
	case len(args) == 2 && args[0] == "pull":
		resp, err := images.PullImage(ctx, &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: args[1]}, Auth: auth()})
		if err != nil {
			return fmt.Errorf("pull %s: %w", args[1], err)
		}
		fmt.Println(resp.GetImageRef())
	case len(args) == 2 && args[0] == "remove":
		if _, err := images.RemoveImage(ctx, &runtime.RemoveImageRequest{Image: &runtime.ImageSpec{Image: args[1]}}); err != nil {
			return fmt.Errorf("remove %s: %w", args[1], err)
		}
	case len(args) == 1 && args[0] == "status":
		resp, err := images.ListImages(ctx, &runtime.ListImagesRequest{})
		if err != nil {
			return fmt.Errorf("list images: %w", err)
		}
		for _, image := range resp.GetImages() {
			fmt.Println(image.GetId(), image.GetRepoTags(), image.GetRepoDigests())
		}
	default:
		return errUsage
	}
	return nil
}

func auth() *runtime.AuthConfig {
	user := os.Getenv("CRIPULL_USER")
	if user == "" {
		return nil
	}
	return &runtime.AuthConfig{Username: user, Password: os.Getenv("CRIPULL_PASSWORD")}
}
