# A node of the network "pods", with a store that all nodes share.
cat >overlayd.yaml <<END
store: {type: local, path: $SHARED/store}
networks:
  - name: pods
    cidrs: [10.244.0.0/16, fd00:10:244::/48]
END
exec overlayd -config overlayd.yaml
