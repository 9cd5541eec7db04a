FROM yakumo-stand-in:backends
USER haproxy
STOPSIGNAL SIGUSR1
ENTRYPOINT []
CMD ["haproxy", "-f", "/usr/local/etc/haproxy/haproxy.cfg"]
