package manifests

import (
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
)

// decode reads one document as the API server does with strict validation:
// unknown and duplicate fields, wrong types and unknown kinds are errors.
func decode(doc []byte) (runtime.Object, error) {
	obj, _, err := decoder.Decode(doc, nil, nil)
	return obj, err
}

var decoder = func() runtime.Decoder {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, appsv1.AddToScheme, batchv1.AddToScheme, networkingv1.AddToScheme} {
		if err := add(s); err != nil {
			panic(err)
		}
	}
	return serializer.NewCodecFactory(s, serializer.EnableStrict).UniversalDeserializer()
}()

// podOf is the pod that an object makes, and its namespace.
func podOf(o runtime.Object) (*corev1.PodTemplateSpec, string) {
	switch o := o.(type) {
	case *appsv1.DaemonSet:
		return &o.Spec.Template, o.Namespace
	case *appsv1.StatefulSet:
		return &o.Spec.Template, o.Namespace
	case *batchv1.Job:
		return &o.Spec.Template, o.Namespace
	}
	return nil, ""
}

// allowed tells what a level of Pod Security has against a pod.
func allowed(t *testing.T, level api.Level, pod *corev1.PodTemplateSpec) string {
	t.Helper()
	e, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	r := policy.AggregateCheckResults(e.EvaluatePod(api.LevelVersion{Level: level, Version: api.LatestVersion()}, &pod.ObjectMeta, &pod.Spec))
	if r.Allowed {
		return ""
	}
	return r.ForbiddenDetail()
}

// Everything that is rendered is of the real types, and every pod is allowed by
// Pod Security: restricted, but for the container that changes a node's files.
func TestRendered(t *testing.T) {
	for name, rendered := range renderings(t) {
		t.Run(name, func(t *testing.T) {
			pods := 0
			for _, doc := range documents(rendered) {
				o, err := decode(doc)
				if err != nil {
					t.Errorf("%v\n%s", err, doc)
					continue
				}
				if pod, ns := podOf(o); pod != nil {
					pods++
					checkPod(t, pod, ns)
				}
			}
			if pods == 0 {
				t.Error("no pods")
			}
		})
	}
}

func checkPod(t *testing.T, pod *corev1.PodTemplateSpec, ns string) {
	t.Helper()
	if pod.Spec.AutomountServiceAccountToken == nil || *pod.Spec.AutomountServiceAccountToken {
		t.Errorf("%s: gets a token of the API server, which it does not need", pod.Spec.ServiceAccountName)
	}
	for _, c := range append(pod.Spec.Containers, pod.Spec.InitContainers...) {
		if c.Resources.Limits.Memory().IsZero() || c.Resources.Requests.Cpu().IsZero() {
			t.Errorf("container %s: no limit of memory, or no request of CPU", c.Name)
		}
		if !c.Resources.Limits.Cpu().IsZero() {
			t.Errorf("container %s: a limit of CPU makes bodies stall", c.Name)
		}
	}
	if strings.HasSuffix(ns, "-setup") && len(pod.Spec.InitContainers) > 0 {
		// What changes the node's files is short-lived; without it and its
		// volume the pod is allowed, too: what stays mounts nothing.
		if allowed(t, api.LevelRestricted, pod) == "" || allowed(t, api.LevelPrivileged, pod) != "" {
			t.Error("setup needs a directory of the host, and nothing more than that")
		}
		for _, c := range pod.Spec.InitContainers {
			if len(c.VolumeMounts) != 1 || c.SecurityContext.Privileged != nil || *c.SecurityContext.AllowPrivilegeEscalation || len(c.SecurityContext.Capabilities.Add) > 0 {
				t.Errorf("container %s has more than it needs", c.Name)
			}
		}
		for _, c := range pod.Spec.Containers {
			if len(c.VolumeMounts) > 0 {
				t.Errorf("container %s stays, and mounts %v", c.Name, c.VolumeMounts)
			}
		}
		pod = pod.DeepCopy()
		pod.Spec.InitContainers, pod.Spec.Volumes = nil, nil
	}
	if why := allowed(t, api.LevelRestricted, pod); why != "" {
		t.Errorf("%s is not allowed by Pod Security restricted: %s", pod.Spec.ServiceAccountName, why)
	}
}

// The checks above find what they are for.
func TestChecksFind(t *testing.T) {
	rendered := string(kustomize(t, "daemonset/overlays/containerd/install"))
	var peerd string
	for _, d := range documents([]byte(rendered)) {
		if strings.Contains(string(d), "kind: DaemonSet") && strings.Contains(string(d), "name: samara-peerd\n") {
			peerd = string(d)
		}
	}
	for _, c := range []struct{ name, old, new, decodes, forbids string }{
		{name: "unknown field", old: "minReadySeconds:", new: "minReadySecond:", decodes: `unknown field "spec.minReadySecond"`},
		{name: "wrong type", old: "minReadySeconds: 5", new: "minReadySeconds: five", decodes: "minReadySeconds"},
		{name: "unknown kind", old: "kind: DaemonSet", new: "kind: DemonSet", decodes: "DemonSet"},
		{name: "host port", old: "containerPort: 5050", new: "containerPort: 5050\n          hostPort: 5050", forbids: "hostPort"},
		{name: "host network", old: "      automountServiceAccountToken: false", new: "      automountServiceAccountToken: false\n      hostNetwork: true", forbids: "host namespaces"},
		{name: "root", old: "runAsUser: 65532", new: "runAsUser: 0", forbids: "runAsUser=0"},
		{name: "escalation", old: "allowPrivilegeEscalation: false", new: "allowPrivilegeEscalation: true", forbids: "allowPrivilegeEscalation"},
		{name: "host path", old: "emptyDir:\n          sizeLimit: 10Gi", new: "hostPath:\n          path: /var/lib/samara", forbids: "hostPath"},
	} {
		t.Run(c.name, func(t *testing.T) {
			changed := strings.Replace(peerd, c.old, c.new, 1)
			if changed == peerd {
				t.Fatalf("%q is not in what is rendered:\n%s", c.old, peerd)
			}
			o, err := decode([]byte(changed))
			if c.decodes != "" {
				if err == nil || !strings.Contains(err.Error(), c.decodes) {
					t.Errorf("decoded: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			pod, _ := podOf(o)
			if why := allowed(t, api.LevelRestricted, pod); !strings.Contains(why, c.forbids) {
				t.Errorf("restricted says %q", why)
			}
		})
	}
}
