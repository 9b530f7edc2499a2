package daemon

import (
	"fmt"
	"os"

	"sigs.k8s.io/yaml"

	"github.com/overlay-cni/overlay-cni/pkg/config"
)

// DefaultConfig is where overlayd's configuration is, unless said otherwise.
const DefaultConfig = "/etc/overlay-cni/overlayd.yaml"

// ReadConfig reads overlayd's configuration, YAML or JSON.
func ReadConfig(path string) (*config.Daemon, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	data, err = yaml.YAMLToJSON(data)
	if err != nil {
		return nil, fmt.Errorf("read configuration %s: %w", path, err)
	}
	c, err := config.ParseDaemon(data)
	if err != nil {
		return nil, fmt.Errorf("read configuration %s: %w", path, err)
	}
	return c, nil
}
