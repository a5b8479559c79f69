package doctor

import (
	"context"
	"errors"
	"net/http"
	"time"
)

// cri is a runtime that a kubelet pulls with: containerd or CRI-O.
type cri struct {
	client *http.Client
	socket string
}

func newCRI(socket string) *cri { return &cri{client: socketClient(socket, true), socket: socket} }

// The service of Kubernetes' CRI; runtime.v1 is there from containerd 1.6 and CRI-O
// 1.20 on.
const imageService = "runtime.v1.ImageService/"

// imageSpec is a message whose first field is an ImageSpec{1: image}: both
// PullImageRequest and RemoveImageRequest.
func imageSpec(image string) []byte { return message(1, message(1, []byte(image))) }

// pull implements puller.
func (c *cri) pull(ctx context.Context, image string) error {
	_, err := unary(ctx, c.client, imageService+"PullImage", nil, imageSpec(image))
	var ge *grpcError
	if errors.As(err, &ge) && ge.code == unimplemented {
		return notHere("its CRI is off")
	}
	return err
}

// remove implements puller.
func (c *cri) remove(ctx context.Context, image string) error {
	_, err := unary(ctx, c.client, imageService+"RemoveImage", nil, imageSpec(image))
	return err
}

// pulls implements historian, from containerd's own list of the images of
// Kubernetes. It has no list of pulls: what was imported is there, too.
func (c *cri) pulls(ctx context.Context) ([]pulled, error) {
	body, err := unary(ctx, c.client, "containerd.services.images.v1.Images/List", map[string]string{"Containerd-Namespace": "k8s.io"}, nil)
	if err != nil {
		return nil, err
	}
	// ListImagesResponse{1: Image{1: name, 7: created_at{1: seconds}}}
	images, err := fields(body)
	if err != nil {
		return nil, err
	}
	var out []pulled
	for _, im := range images {
		parts, err := fields(im.bytes)
		if im.num != 1 || err != nil {
			continue
		}
		var p pulled
		for _, f := range parts {
			switch f.num {
			case 1:
				p.image = string(f.bytes)
			case 7:
				at, err := fields(f.bytes)
				if err == nil && len(at) > 0 && at[0].num == 1 {
					p.at = time.Unix(int64(at[0].varint), 0)
				}
			}
		}
		out = append(out, p)
	}
	return out, nil
}

// close implements puller.
func (c *cri) close() { c.client.CloseIdleConnections() }
